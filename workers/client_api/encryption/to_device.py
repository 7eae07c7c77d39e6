"""Send-to-device messages. Spec: client-server API, "Send-to-Device messaging".

Messages for remote users need federation: until then, they are dropped.
"""

from typing import Any

import msgspec
import orjson

from replication.streams import TO_DEVICE
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.core.errors import invalid_param
from shared.core.identifiers import UserId, check_user_id, server_of, within_bytes
from shared.core.rows import ToDeviceRow
from shared.http.endpoint import RateLimit, RoutingKey, Share
from shared.http.request import Request, Response, empty_response
from shared.http.serving import endpoint
from shared.http.transaction_key import transaction_key
from shared.operations.quotas import UserQuotas
from shared.runtime.clock import Clock
from shared.storage.encryption import to_device as storage
from shared.storage.encryption.to_device import MessageToSend, SentMessages
from shared.storage.engine.pool import transient_as_unavailable
from workers.client_api.encryption.send_allowances import SendAllowances

_MAX_TYPE_BYTES = 255
_MAX_MESSAGES = 10_000  # in one request, before "*" is expanded
_MAX_CONTENT_BYTES = 65_536  # of one message: the limit of an event


class SendToDeviceBody(msgspec.Struct):
    messages: dict[UserId, dict[str, dict[str, Any]]]


class SendToDevice:
    def __init__(
        self, server_name: str, writer: FencedWriter, announcer: Announcer, clock: Clock, quotas: UserQuotas
    ) -> None:
        self._server_name = server_name
        self._quotas = quotas
        self._allowances = SendAllowances(quotas.limits, clock)
        self._writer = writer
        self._announcer = announcer
        self._clock = clock

    # The owner of the sender takes all messages of a device, so that they stay in order.
    @endpoint(
        name="send_to_device",
        method="PUT",
        path="/_matrix/client/{version}/sendToDevice/{eventType}/{txnId}",
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.READ,
        share=Share.KEYS,
        idempotent=True,
        spec="client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid",
    )
    async def send_to_device(self, request: Request) -> Response:
        """PUT /sendToDevice/{eventType}/{txnId}. A retry with the same id sends nothing.

        Raises M_INVALID_PARAM, M_LIMIT_EXCEEDED, and M_USER_LIMIT_EXCEEDED if the inboxes of all recipients are full.
        Messages that do not fit into some of many inboxes are dropped: these devices have not synced for long.
        """
        event_type = request.params["eventType"]
        if not within_bytes(event_type, _MAX_TYPE_BYTES):
            raise invalid_param(f"The event type must have at most {_MAX_TYPE_BYTES} bytes")
        messages = self._local_messages(request.decode(SendToDeviceBody))
        user = request.user
        self._allowances.check(user.user_id)
        with transient_as_unavailable():
            sent = await storage.send_to_device(
                self._writer.write,
                storage.SendToDevice(
                    sender=user.user_id,
                    sender_device=user.device_id or "",
                    key=transaction_key(request),
                    type=event_type,
                    messages=messages,
                    max_inbox_bytes=self._quotas.limits.inbox_bytes,
                    now_ms=self._clock.now_ms(),
                ),
                streams=(TO_DEVICE.name,),
            )
        self._allowances.spend(user.user_id, sent.bytes)
        if sent.refused and not sent.stored:
            raise self._quotas.exceeded(
                "inbox_bytes", "Too many messages wait for this device. Try again once it has received them"
            )
        self._quotas.note_refused("inbox_bytes", sent.refused)
        self._announcer.announce(TO_DEVICE, self._rows(sent))
        return empty_response()

    def _local_messages(self, body: SendToDeviceBody) -> list[MessageToSend]:
        if sum(map(len, body.messages.values())) > _MAX_MESSAGES:
            raise invalid_param(f"A request may have at most {_MAX_MESSAGES} messages")
        messages = []
        for user_id, devices in body.messages.items():
            local = server_of(check_user_id(user_id)) == self._server_name
            for device_id, content in devices.items():
                encoded = orjson.dumps(content)
                if len(encoded) > _MAX_CONTENT_BYTES:
                    raise invalid_param(f"A message must have at most {_MAX_CONTENT_BYTES} bytes")
                if local and "\x00" not in device_id:
                    messages.append(MessageToSend(user_id, device_id, encoded))
        return messages

    def _rows(self, sent: SentMessages) -> list[ToDeviceRow]:
        lease = self._writer.lease
        # Rows of one writer are in order anyway, so only a prior message of another writer is named.
        other_writer = sent.prior_writer is not None and sent.prior_writer != lease
        return [
            ToDeviceRow(
                position=position,
                writer=lease,
                user_id=user_id,
                device_id=device_id,
                prior_writer=sent.prior_writer if other_writer else None,
                prior_position=sent.prior_position if other_writer else None,
            )
            for position, user_id, device_id in sent.stored
        ]
