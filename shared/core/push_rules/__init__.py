"""Push rules. Spec: client-server API, "Push notifications"."""

from shared.core.push_rules.default_rules import default_push_rules

__all__ = ["default_push_rules"]
