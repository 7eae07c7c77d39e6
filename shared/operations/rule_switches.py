"""The settings that add push rules. They are the same for evaluating events and for showing the rules."""

from shared.config.sections import Config
from shared.core.push_rules import RuleSwitches


def rule_switches(config: Config) -> RuleSwitches:
    return RuleSwitches(
        thread_subscriptions=config.experimental.msc4306_thread_subscriptions,
        encrypted_events=config.experimental.msc4028_encrypted_events,
        legacy_mentions=config.push_rules.legacy_mentions,
    )
