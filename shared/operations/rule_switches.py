"""The open proposals that add push rules. They are the same for evaluating events and for showing the rules."""

from shared.config.sections import Experimental
from shared.core.push_rules import RuleSwitches


def rule_switches(experimental: Experimental) -> RuleSwitches:
    return RuleSwitches(
        thread_subscriptions=experimental.msc4306_thread_subscriptions,
        encrypted_events=experimental.msc4028_encrypted_events,
    )
