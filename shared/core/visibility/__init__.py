"""Who may see which event."""

from shared.core.visibility.history import may_see

__all__ = ["may_see"]
