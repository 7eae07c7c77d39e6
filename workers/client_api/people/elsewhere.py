"""Answers of other servers to questions of our clients."""

from typing import Any, TypeVar

from replication.calls.fetches import AnswerFromElsewhere
from replication.calls.owner_calls import Ask
from shared.core.errors import MatrixError, RemoteServerError, forbidden, not_found
from shared.http.request import Request

Question = TypeVar("Question")


async def ask_server(
    request: Request, ask: Ask[Question, AnswerFromElsewhere] | None, server: str, question: Question
) -> dict[str, Any]:
    """Return what another server answers.

    ask: None if this server talks to no others.
    Raises M_MISSING_TOKEN for a request without a token: strangers cannot have us ask others. Raises M_NOT_FOUND and
    M_FORBIDDEN as the other server does, and RemoteServerError (502) if it answers otherwise or cannot be reached.
    """
    if ask is None:
        raise not_found("This server does not talk to other servers")
    if request.requester is None:
        raise MatrixError("M_MISSING_TOKEN", "Only users of this server can ask other servers", 401)
    answer = await ask(server, question)
    if answer.content is not None:
        return answer.content
    if answer.status == 404:
        raise not_found(answer.message or f"{server} knows nothing of it")
    if answer.status == 403:
        raise forbidden(answer.message or f"{server} refuses to answer")
    if answer.status:
        # Its other errors are about our request to it, not about the client's to us.
        raise RemoteServerError(f"{server} answered {answer.status} {answer.errcode} {answer.message}")
    raise RemoteServerError(f"{server} could not be asked: {answer.message}")
