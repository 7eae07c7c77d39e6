"""Push rules. Spec: client-server API, "Push Rules".

    rules = user_rules(row.rules, switches)                       # b"": the default rules, one object for all
    event = JudgedEvent(pdu, room_id, joined, power_levels, in_thread=False)
    shared_part(rules, room_id).judge(event)                      # (notifies, highlights) for a whole group
    group_of(rules, room_id)                                      # its number; DEFAULT_GROUP
    individual_triggers(rules, room_id, display_name)             # words and senders for an index
    rules.judge(event, Reader(user_id, display_name))             # Outcome(notifies, highlights, actions) for one

Individually must be judged: `event.named_users()`; whose index words are in `event.word_keys()`; who have a sender
rule for `event.sender_key()`; and subscribers of the event's thread, where `switches.thread_subscriptions`. For all
others the outcome of their group holds. The event's sender is never notified; who ignores him is the caller's matter.
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
from shared.core.push_rules.conditions import NOBODY, Reader
from shared.core.push_rules.default_rules import ALL_OFF, RuleSwitches
from shared.core.push_rules.judged_event import JudgedEvent
from shared.core.push_rules.judging import (
    DEFAULT_GROUP,
    NO_TRIGGERS,
    NOTHING,
    Outcome,
    SharedRules,
    Triggers,
    UserRules,
    group_of,
    individual_triggers,
    shared_part,
    user_rules,
    where_they_matter,
)
from shared.core.push_rules.patterns import word_keys

__all__ = [
    "ALL_OFF", "DEFAULT_GROUP", "NOBODY", "NOTHING", "NO_CHANGES", "NO_TRIGGERS", "DefaultChange", "JudgedEvent",
    "Outcome", "Reader", "RuleChanges", "RuleSwitches", "SharedRules", "Triggers", "UserRule", "UserRules",
    "changes_from_json", "changes_to_json", "full_ruleset", "group_of", "individual_triggers", "shared_part",
    "user_rules", "where_they_matter", "word_keys",
]  # fmt: skip
