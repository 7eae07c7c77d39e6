"""PUT /sendToDevice. Spec: client-server API, "Send-to-Device messaging".

Messages for users of other servers wait for federation: none are sent yet.
"""

from typing import Any

import msgspec
import orjson

from replication.streams import TO_DEVICE
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.core.errors import invalid_param
from shared.core.identifiers import check_user_id, server_of, within_bytes
from shared.core.rows import ToDeviceRow
from shared.http.request import Request, Response, empty_response
from shared.http.transaction_key import transaction_key
from shared.runtime.clock import Clock
from shared.storage.encryption.to_device import MessageToSend, SentMessages, send_to_device
from shared.storage.engine.pool import passing_as_unavailable

_MAX_TYPE_BYTES = 255
_MAX_MESSAGES = 10_000  # of one request, before "*" is spelt out
_MAX_CONTENT_BYTES = 65_536  # of one message: what an event may have


class SendToDeviceBody(msgspec.Struct):
    messages: dict[str, dict[str, dict[str, Any]]]


class SendToDevice:
    def __init__(self, server_name: str, writer: FencedWriter, announcer: Announcer, clock: Clock) -> None:
        self._server_name = server_name
        self._writer = writer
        self._announcer = announcer
        self._clock = clock

    async def send_to_device(self, request: Request) -> Response:
        """PUT /sendToDevice/{eventType}/{txnId}. A retransmission sends nothing again. Raises M_INVALID_PARAM."""
        event_type = request.params["eventType"]
        if not within_bytes(event_type, _MAX_TYPE_BYTES):
            raise invalid_param(f"A type has {_MAX_TYPE_BYTES} bytes at most")
        messages = self._for_us(request.decode(SendToDeviceBody))
        user = request.user
        with passing_as_unavailable():
            sent = await send_to_device(
                self._writer.write, user.user_id, user.device_id or "", transaction_key(request), event_type,
                messages, self._clock.now_ms(), (TO_DEVICE.name,),
            )  # fmt: skip
        self._announcer.announce(TO_DEVICE, self._rows(sent))
        return empty_response()

    def _for_us(self, body: SendToDeviceBody) -> list[MessageToSend]:
        if sum(map(len, body.messages.values())) > _MAX_MESSAGES:
            raise invalid_param(f"At most {_MAX_MESSAGES} messages at a time")
        ours = []
        for user_id, devices in body.messages.items():
            local = server_of(check_user_id(user_id)) == self._server_name
            for device_id, content in devices.items():
                encoded = orjson.dumps(content)
                if len(encoded) > _MAX_CONTENT_BYTES:
                    raise invalid_param(f"A message has {_MAX_CONTENT_BYTES} bytes at most")
                if local and "\x00" not in device_id:
                    ours.append(MessageToSend(user_id, device_id, encoded))
        return ours

    def _rows(self, sent: SentMessages) -> list[ToDeviceRow]:
        lease = self._writer.lease
        # Our own earlier messages come before these anyway.
        foreign = sent.prior_writer is not None and sent.prior_writer != lease
        prior = (sent.prior_writer, sent.prior_position) if foreign else (None, None)
        return [ToDeviceRow(position, lease, user, device, *prior) for position, user, device in sent.stored]
