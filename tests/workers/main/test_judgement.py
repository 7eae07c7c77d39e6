"""The leader's judgement which processes are dead, as a pure function of heartbeats and its own clock."""

from dataclasses import replace

from tests.workers.main.test_drain_and_pins import process
from workers.main.decisions import Judgement

_DEAD_AFTER_S = 5.0


def _dead(judgement: Judgement, beat: float, now_s: float, silent_s: float = 0.0) -> bool:
    """Show a process with this heartbeat to the judgement, and return True if it is dead then."""
    row = replace(process(2), beat=beat, silent_s=silent_s)
    judgement.saw([row], now_s, now_s)
    return judgement.dead([row], 1, 1) == [row]


def test_process_is_dead_once_its_heartbeat_has_not_changed_for_long_enough() -> None:
    judgement = Judgement(_DEAD_AFTER_S)
    assert not _dead(judgement, 100.0, 10.0)
    assert not _dead(judgement, 101.0, 11.0)
    assert not _dead(judgement, 101.0, 15.9)
    assert _dead(judgement, 101.0, 16.0)
    assert not _dead(judgement, 102.0, 16.1), "it beats again"


def test_jump_of_the_databases_clock_kills_no_process() -> None:
    judgement = Judgement(_DEAD_AFTER_S)
    assert not _dead(judgement, 100.0, 10.0)
    assert not _dead(judgement, 100.0, 10.25, silent_s=3600.0), "ahead"
    assert not _dead(judgement, 3701.0, 11.0)
    assert not _dead(judgement, 102.0, 12.0, silent_s=-3600.0), "back"
    assert _dead(judgement, 102.0, 17.0, silent_s=-3595.0), "a process that dies then is noticed all the same"


def test_silence_is_never_overestimated_by_slow_readings() -> None:
    judgement, row = Judgement(_DEAD_AFTER_S), replace(process(2), beat=1.0)
    judgement.saw([row], 0.0, 3.0)  # it may have beaten until the reading ended
    judgement.saw([row], 7.0, 20.0)  # and after this one began
    assert judgement.silent_s(row) == 4.0
    assert judgement.living([row]) == [row]
    judgement.saw([row], 8.0, 8.0)
    assert judgement.living([row]) == []


def test_new_lease_is_alive_and_an_ended_one_forgotten() -> None:
    judgement = Judgement(_DEAD_AFTER_S)
    assert not _dead(judgement, 1.0, 10.0)
    judgement.saw([], 20.0, 20.0)
    assert not _dead(judgement, 1.0, 30.0)
