"""The policy server of a room, which counts only if one of its users is joined.

Spec: server-server API, "Policy Servers".
"""

from collections.abc import Callable, Iterable

from shared.core.event_checks import PolicyServer, policy_server_of
from shared.core.events import Event
from shared.core.identifiers import UserId, server_of


class JoinedPolicyServer:
    """Remembers a joined user of the policy server, so that no event needs a walk through the members."""

    def __init__(self) -> None:
        self._witness: UserId | None = None  # a user of the policy server
        self._absent: str | None = None  # a server without joined users

    def server(
        self,
        event: Event | None,
        membership: Callable[[UserId], str | None],
        members: Callable[[str], Iterable[UserId]],
    ) -> PolicyServer | None:
        """Return the policy server of the room's m.room.policy. Usually one look-up.

        membership: returns the membership of a user.
        members: returns the users with a membership, for a walk when the remembered user is gone.
        """
        via = None if event is None else event.content.get("via")
        if not isinstance(via, str) or via == self._absent:
            return None
        witness = self._witness
        if witness is None or server_of(witness) != via or membership(witness) != "join":
            # The walk is repeated only when a user of that server came or went, or another server is named.
            witness = next((user_id for user_id in members("join") if server_of(user_id) == via), None)
            self._witness, self._absent = witness, via if witness is None else None
        return policy_server_of(event, [] if witness is None else [witness])

    def member_changed(self, user_id: UserId) -> None:
        """Take in that this user may have come or gone."""
        if self._absent is not None and server_of(user_id) == self._absent:
            self._absent = None

    def forget_absence(self) -> None:
        """Take in that changes of memberships were taken back."""
        self._absent = None
