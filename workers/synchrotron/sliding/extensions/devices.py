"""The extensions for the requesting device: to-device messages, key counts and device lists."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from replication.streams import TO_DEVICE
from shared.core.sync_tokens.stream_token import StreamToken
from shared.http.request import convert
from workers.synchrotron.devices.device_section import MAX_MESSAGES, DeviceSections
from workers.synchrotron.sliding.extensions.extension import NO_RESULT, ExtensionContext, ExtensionResult
from workers.synchrotron.waiting.sync_tokens import SyncTokens, format_sync_token


class _Parameters(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = MAX_MESSAGES
    since: str | None = None


class ToDevice:
    """To-device messages. They have a token of their own, which acknowledges messages. Spec: MSC3885."""

    name = "to_device"
    per_room = False

    def __init__(self, sections: DeviceSections, tokens: SyncTokens) -> None:
        self._sections = sections
        self._tokens = tokens

    def check(self, parameters: Mapping[str, Any]) -> _Parameters:
        return convert(parameters, _Parameters)

    async def build(self, context: ExtensionContext, parameters: _Parameters) -> ExtensionResult:
        if context.device_id is None:
            return NO_RESULT
        since, now = None, context.span.now.vector(TO_DEVICE.name)
        if parameters.since:
            since = (await self._tokens.reach(parameters.since)).vector(TO_DEVICE.name)
            if now.greatest < since.greatest:
                now = self._tokens.now().vector(TO_DEVICE.name)  # another connection's token, ahead of this build
        messages, reached = await self._sections.messages(
            context.user, context.device_id, since, now, min(parameters.limit, MAX_MESSAGES)
        )
        next_batch = format_sync_token(StreamToken({TO_DEVICE.name: reached}))
        return ExtensionResult({"next_batch": next_batch, "events": messages}, empty=not messages)


class E2ee:
    """Device list updates, and the device's key counts when they changed. Spec: MSC3884."""

    name = "e2ee"
    per_room = False

    def __init__(self, sections: DeviceSections) -> None:
        self._sections = sections

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Accept any parameters, since it has none of its own."""

    async def build(self, context: ExtensionContext, parameters: None) -> ExtensionResult:
        body: dict[str, Any] = {}
        if context.device_id is not None:
            counts, unused, keys_changed = await self._sections.keys(context.user, context.device_id, context.span)
            if keys_changed or context.span.since is None:
                body["device_one_time_keys_count"] = counts
                body["device_unused_fallback_key_types"] = unused
        changed, left = await self._sections.device_lists(context.user, context.span)
        if changed or left:
            body["device_lists"] = {"changed": changed, "left": left}
        return ExtensionResult(body, empty=False) if body else NO_RESULT
