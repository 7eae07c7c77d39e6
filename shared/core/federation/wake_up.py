"""The clock of the pure cores: they ask to be woken, and are told when the time has come."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """The time of `WakeAt` has come. An event too early or too many changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeAt:
    """Tell when this time has come. It replaces the time of an earlier action."""

    at_ms: int
