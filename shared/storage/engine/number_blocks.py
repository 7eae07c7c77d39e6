"""Short integer ids, reserved in blocks. A batch can name its own rows before it is stored."""

from shared.storage.engine.pool import Database

BLOCK = 1000  # the INCREMENT of the sequences


class NumberBlock:
    """Hands out ids of one sequence (`room_nids`, `event_nids`); a new block costs one statement per 1000 ids.

    Ids of a block that a dead process did not use are never used: gaps are harmless.
    """

    def __init__(self, database: Database, sequence: str) -> None:
        self._database = database
        self._sql = f"SELECT nextval('{sequence}')"
        self._next = 0
        self._end = 0

    async def reserve(self, count: int) -> None:
        """Make sure that `count` ids can be taken without waiting."""
        while self._end - self._next < count:
            if count > BLOCK:
                raise ValueError(f"at most {BLOCK} ids at a time, not {count}")
            start = await self._database.fetchval(self._sql)
            # The rest of the old block is given up: ids of one reservation stay in one block.
            self._next, self._end = start, start + BLOCK

    def take(self) -> int:
        """Return the next id. Raises RuntimeError when none was reserved."""
        if self._next >= self._end:
            raise RuntimeError("no id reserved: call reserve() first")
        self._next += 1
        return self._next - 1
