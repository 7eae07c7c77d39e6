"""Push rules. Spec: client-server API, "Push Rules".

    rules = user_rules(row.rules, switches)                       # b"": the default rules, one object for all users
    event = PushEvent(pdu, room_id, joined, power_levels, in_thread=False)
    shared_rules(rules, room_id).evaluate(event)                  # (notifies, highlights) for a whole group
    group_of(rules, room_id)                                      # the group's number, or DEFAULT_GROUP
    individual_triggers(rules, room_id, recipient)             # words and senders for an index
    rules.evaluate(event, Recipient(user_id, display_name))       # Outcome(notifies, highlights, actions) for one user

An event is evaluated once per group of members. It is evaluated individually for the users in `event.named_users()`,
users whose index words are in `event.word_keys()`, users with a rule for `event.sender_key()`, and subscribers of the
event's thread if `switches.thread_subscriptions`. For all others their group's outcome holds. The event's sender is
never notified. The caller checks who ignores the sender.
"""

from shared.core.push_rules.changes import (
    NO_CHANGES,
    DefaultChange,
    RuleChanges,
    UserRule,
    changes_from_json,
    changes_to_json,
    full_ruleset,
)
from shared.core.push_rules.conditions import GROUP_MEMBER, Recipient
from shared.core.push_rules.default_rules import ALL_OFF, RuleSwitches
from shared.core.push_rules.evaluation import (
    DEFAULT_GROUP,
    NO_PUSH,
    NO_TRIGGERS,
    Outcome,
    SharedRules,
    Triggers,
    UserRules,
    affected_rooms,
    group_of,
    individual_triggers,
    shared_rules,
    user_rules,
)
from shared.core.push_rules.patterns import word_keys
from shared.core.push_rules.push_event import PushEvent

__all__ = [
    "ALL_OFF",
    "DEFAULT_GROUP",
    "GROUP_MEMBER",
    "NO_CHANGES",
    "NO_PUSH",
    "NO_TRIGGERS",
    "DefaultChange",
    "Outcome",
    "PushEvent",
    "Recipient",
    "RuleChanges",
    "RuleSwitches",
    "SharedRules",
    "Triggers",
    "UserRule",
    "UserRules",
    "affected_rooms",
    "changes_from_json",
    "changes_to_json",
    "full_ruleset",
    "group_of",
    "individual_triggers",
    "shared_rules",
    "user_rules",
    "word_keys",
]
