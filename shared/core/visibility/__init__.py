"""Who may see which event."""

from shared.core.visibility.erasure import ShownForm, shown_form
from shared.core.visibility.history import may_see
from shared.core.visibility.place import member_may_see

__all__ = ["ShownForm", "may_see", "member_may_see", "shown_form"]
