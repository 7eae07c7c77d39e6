"""History visibility and erasure: which events a user may see."""

from shared.core.visibility.erasure import ShownForm, shown_form
from shared.core.visibility.history import may_see

__all__ = ["ShownForm", "may_see", "shown_form"]
