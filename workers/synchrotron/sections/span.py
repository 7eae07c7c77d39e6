"""PURE: the part of the streams that one response covers."""

from dataclasses import dataclass

from shared.core.sync_tokens.stream_token import StreamToken
from shared.storage.rooms.memberships import RoomMembership


@dataclass(frozen=True, slots=True)
class Span:
    """From the client's token to now."""

    #: None: everything.
    since: StreamToken | None
    now: StreamToken
    #: The seq (see `SyncUser`) that the client's token covers. None: unknown.
    since_seq: int | None
    full_state: bool

    def is_new(self, stream: str, writer: int, position: int) -> bool:
        """Return True if a row belongs in the response."""
        if not self.now.vector(stream).covers(writer, position):
            return False
        return self.since is None or not self.since.vector(stream).covers(writer, position)

    def changed(self, membership: RoomMembership) -> bool:
        """Return True if the membership changed after the client's token."""
        return self.since is None or not self.since.vector("events").covers(membership.writer, membership.position)
