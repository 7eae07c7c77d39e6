"""The memory of ignore lists in a synchrotron counts against the budget of users."""

import gc
import tracemalloc

import orjson

from shared.core.identifiers import UserId
from shared.core.rows import GLOBAL
from shared.storage.push.rules import PushRulesRecord
from shared.storage.user_data.account_data import AccountDataRecord
from workers.synchrotron.users.sync_user import SyncUser


def test_accounted_size_of_an_ignore_list_is_about_the_measured_one() -> None:
    ids = [f"@spammer{number}:example.org" for number in range(20_000)]
    json = memoryview(orjson.dumps({"ignored_users": {one: {} for one in ids}})).tobytes()
    user = SyncUser(UserId("@a:x"))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        user.set_account_data(AccountDataRecord(GLOBAL, "m.ignored_user_list", bytes(bytearray(json)), 1, 1))
        assert len(user.ignored_users) == len(ids)
        user.set_push_rules(PushRulesRecord(b"{}", tuple(UserId(one + "x") for one in ids), 1, 2))
        gc.collect()
        measured = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert measured / 1.5 < user.size_bytes < measured * 1.5, (measured, user.size_bytes)
    user.set_account_data(AccountDataRecord(GLOBAL, "m.ignored_user_list", None, 1, 2))
    assert user.ignored_users == frozenset()
    assert user.size_bytes < 10_000
