from shared.rooms.state_history import history
from shared.storage.rooms.state import KeyChange


def test_values_with_defaults() -> None:
    changes = [
        KeyChange(3, b'{"content":{"membership":"join"}}'),
        KeyChange(5, b'{"content":{"membership":7}}'),
        KeyChange(8, None),
    ]
    assert history(changes, "membership") == [(3, "join"), (5, "leave"), (8, "leave")]
    assert history([KeyChange(1, b'{"content":{}}')], "history_visibility") == [(1, "shared")]


def test_events_of_old_rooms_that_orjson_refuses() -> None:
    huge = b'{"content":{"membership":"join"},"depth":1' + b"0" * 400 + b"}"
    surrogate = b'{"content":{"membership":"invite","reason":"\\ud800"}}'
    assert history([KeyChange(1, huge), KeyChange(2, surrogate)], "membership") == [(1, "join"), (2, "invite")]
