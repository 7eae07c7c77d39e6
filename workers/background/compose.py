"""Puts a background worker together."""

from replication.worker_process import Foundation, Worker
from workers.background.cleanup import Cleanup
from workers.background.search_index import SearchIndex


def compose(foundation: Foundation) -> Worker:
    cleanup = Cleanup(foundation.database, foundation.clock, foundation.config.accounts)
    search_index = SearchIndex(foundation.database)

    async def start() -> None:
        foundation.tasks.forever(cleanup.run, "cleanup")
        foundation.tasks.forever(search_index.run, "search index")

    return Worker(handlers={}, start=start)
