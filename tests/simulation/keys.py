"""The rooms and users of a simulated fleet. It has few slots, and every key falls into one of them."""

from shared.core.slots import slot_of

SLOTS = {"rooms": 6, "users": 3}


def _keys(prefix: str, count: int, slots: int) -> list[str]:
    keys: list[str] = []
    number = 0
    while len(keys) < count:
        if slot_of(f"{prefix}{number}") < slots:
            keys.append(f"{prefix}{number}")
        number += 1
    return keys


KEYS = {"rooms": _keys("!room", 8, SLOTS["rooms"]), "users": _keys("@user", 4, SLOTS["users"])}
