"""The quota of room aliases, for the two places in which users create them: the directory, and new rooms."""

from shared.core.identifiers import UserId
from shared.operations.quotas import UserQuotas
from shared.storage.engine.pool import Database
from shared.storage.rooms.aliases import has_aliases


async def check_alias_quota(database: Database, quotas: UserQuotas, user_id: UserId) -> None:
    """Raise M_USER_LIMIT_EXCEEDED if the user created as many aliases as they may have."""
    most = quotas.limits.aliases
    if await has_aliases(database, user_id, most):
        raise quotas.exceeded("aliases", f"You may have at most {most} room aliases. Delete one of them first")
