"""Puts a background worker together."""

from replication.worker_process import Foundation, Worker
from workers.background.cleanup import Cleanup


def compose(foundation: Foundation) -> Worker:
    cleanup = Cleanup(foundation.database, foundation.clock, foundation.config.accounts)

    async def start() -> None:
        foundation.tasks.forever(cleanup.run, "cleanup")

    return Worker(handlers={}, start=start)
