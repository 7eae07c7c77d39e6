"""Token buckets: granted tokens never exceed the burst and the rate."""

from hypothesis import given
from hypothesis import strategies as st

from shared.core.token_bucket import Bucket, full_bucket, refilled, take


def test_burst_then_rate() -> None:
    bucket = full_bucket(3, 0.0)
    for _ in range(3):
        taken = take(bucket, 0.0, 2.0, 3)
        assert (taken.granted, taken.wait_s) == (1, 0.0)
        bucket = taken.bucket
    denied = take(bucket, 0.0, 2.0, 3)
    assert (denied.granted, denied.wait_s) == (0, 0.5)
    assert take(denied.bucket, 0.5, 2.0, 3).granted == 1


def test_grant_is_limited_to_whole_tokens() -> None:
    assert take(Bucket(2.7, 0.0), 0.0, 1.0, 10, wanted=5).granted == 2


def test_clock_stepping_back_changes_nothing() -> None:
    assert refilled(Bucket(1.0, 10.0), 5.0, 1.0, 10).tokens == 1.0


@given(
    st.floats(0.01, 100),
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 20)), max_size=60),
)
def test_never_more_than_burst_and_rate(per_second: float, burst: int, calls: list[tuple[float, int]]) -> None:
    bucket, now_s, total = full_bucket(burst, 0.0), 0.0, 0
    for pause_s, wanted in calls:
        now_s += pause_s
        taken = take(bucket, now_s, per_second, burst, wanted)
        bucket, total = taken.bucket, total + taken.granted
        assert 0 <= taken.granted <= wanted
        assert (taken.wait_s > 0) == (taken.granted == 0)
        assert total <= burst + per_second * now_s + 1e-6
