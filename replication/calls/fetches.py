"""The calls to owners of fetches, who ask other servers. They may be repeated at any time.

The key is the name of the server that is asked. So equal questions meet in one process, which asks once.
"""

from typing import Any

import msgspec

from shared.core.identifiers import UserId
from shared.http.internal_calls import OwnerCall


class AnswerFromElsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of another server.

    content: its JSON, None if it refused or could not be reached.
    status: the HTTP status of its refusal, 0 if it could not be reached.
    errcode, message: of its refusal; message also says why it could not be reached.
    """

    content: dict[str, Any] | None = None
    status: int = 0
    errcode: str = ""
    message: str = ""


class ProfileElsewhere(msgspec.Struct, frozen=True):
    """The user whose profile is asked for. field: one of its fields, "" for all."""

    user_id: UserId
    field: str = ""


#: Ask a server for the profile of one of its users.
ASK_PROFILE = OwnerCall(
    name="ask_profile",
    path="/_skep/fetches/{fetchKey}/profile",
    pool="fetches",
    takes=ProfileElsewhere,
    returns=AnswerFromElsewhere,
)


class AliasElsewhere(msgspec.Struct, frozen=True):
    """The alias whose room is asked for."""

    alias: str


#: Ask a server for the room of one of its aliases.
ASK_ALIAS = OwnerCall(
    name="ask_alias",
    path="/_skep/fetches/{fetchKey}/alias",
    pool="fetches",
    takes=AliasElsewhere,
    returns=AnswerFromElsewhere,
)
