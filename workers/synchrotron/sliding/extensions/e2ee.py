"""Whose devices changed, and what is left of the device's own keys; only what changed. Spec: MSC3884."""

from collections.abc import Mapping
from typing import Any

from workers.synchrotron.devices.device_section import DeviceSections
from workers.synchrotron.sliding.extensions.extension import NOTHING, Asked, Told


class E2ee:
    name = "e2ee"
    per_room = False

    def __init__(self, sections: DeviceSections) -> None:
        self._sections = sections

    def check(self, parameters: Mapping[str, Any]) -> None:
        """It has no parameters of its own."""

    async def tell(self, asked: Asked, parameters: None) -> Told:
        body: dict[str, Any] = {}
        if asked.device_id is not None:
            counts, unused, news = await self._sections.keys(asked.user, asked.device_id, asked.span)
            if news or asked.span.since is None:
                body["device_one_time_keys_count"] = counts
                body["device_unused_fallback_key_types"] = unused
        changed, left = await self._sections.people(asked.user, asked.span)
        if changed or left:
            body["device_lists"] = {"changed": changed, "left": left}
        return Told(body, empty=False) if body else NOTHING
