"""The interface of the message bus.

It stands apart from its implementation because txredisapi imports the reactor. No module that the parent of forked
workers imports may do that.
"""

from collections.abc import Callable, Sequence
from typing import Protocol


class Transport(Protocol):
    """Messages are delivered at most once. They are lost while there is no connection, and a publisher never waits."""

    def publish(self, channel: str, message: bytes) -> None: ...

    def subscribe(
        self, channels: Sequence[str], on_message: Callable[[str, bytes], None], on_up: Callable[[], None]
    ) -> None:
        """Listen from now on. on_up is called after each new subscription took effect."""
        ...

    @property
    def connected(self) -> bool: ...

    async def close(self) -> None: ...
