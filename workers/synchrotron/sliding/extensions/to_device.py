"""Messages for the device. They have a token of their own: only what it acknowledges is deleted. Spec: MSC3885."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from replication.streams import TO_DEVICE
from shared.core.sync_tokens.stream_token import StreamToken
from shared.http.request import convert
from workers.synchrotron.devices.device_section import MAX_MESSAGES, DeviceSections
from workers.synchrotron.sliding.extensions.extension import NOTHING, Asked, Told
from workers.synchrotron.waiting.sync_tokens import Tokens, format_sync_token


class _Parameters(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = MAX_MESSAGES
    since: str | None = None


class ToDevice:
    name = "to_device"
    per_room = False

    def __init__(self, sections: DeviceSections, tokens: Tokens) -> None:
        self._sections = sections
        self._tokens = tokens

    def check(self, parameters: Mapping[str, Any]) -> _Parameters:
        return convert(parameters, _Parameters)

    async def tell(self, asked: Asked, parameters: _Parameters) -> Told:
        if asked.device_id is None:
            return NOTHING
        since, now = None, asked.span.now.vector(TO_DEVICE.name)
        if parameters.since:
            since = (await self._tokens.reach(parameters.since)).vector(TO_DEVICE.name)
            if asked.span.now.vector(TO_DEVICE.name).greatest < since.greatest:
                now = self._tokens.now().vector(TO_DEVICE.name)  # a token of another connection, ahead of this look
        messages, reached = await self._sections.messages(
            asked.user, asked.device_id, since, now, min(parameters.limit, MAX_MESSAGES)
        )
        next_batch = format_sync_token(StreamToken({TO_DEVICE.name: reached}))
        return Told({"next_batch": next_batch, "events": messages}, empty=not messages)
