"""Whether a room's policy server counts: a user of it must be joined. Spec: server-server API, "Policy Servers"."""

from collections.abc import Callable, Iterable

from shared.core.event_checks import PolicyServer, policy_server_of
from shared.core.events import Event
from shared.core.identifiers import server_of


class JoinedPolicyServer:
    """Keeps who of the policy server is joined, so that nobody walks the members for each event."""

    def __init__(self) -> None:
        self._witness: str | None = None  # a user of the policy server
        self._absent: str | None = None  # a server of which nobody is joined

    def server(
        self,
        event: Event | None,
        membership: Callable[[str], str | None],
        members: Callable[[str], Iterable[str]],
    ) -> PolicyServer | None:
        """Return the policy server of the room's m.room.policy. Usually one look-up.

        membership: of a user; members: the users with a membership, for a walk when the witness is gone.
        """
        via = None if event is None else event.content.get("via")
        if not isinstance(via, str) or via == self._absent:
            return None
        witness = self._witness
        if witness is None or server_of(witness) != via or membership(witness) != "join":
            # Walks the members, and again only when somebody of that server came or went, or another one is named.
            witness = next((user_id for user_id in members("join") if server_of(user_id) == via), None)
            self._witness, self._absent = witness, via if witness is None else None
        return policy_server_of(event, [] if witness is None else [witness])

    def member_changed(self, user_id: str) -> None:
        """This user came or went, perhaps."""
        if self._absent is not None and server_of(user_id) == self._absent:
            self._absent = None

    def forget_absence(self) -> None:
        """Who is joined was taken back."""
        self._absent = None
