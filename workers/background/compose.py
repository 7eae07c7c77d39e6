"""Puts a background worker together."""

from replication.calls.rooms import SEND_DELAYED_EVENT
from replication.process.foundation import Foundation, Worker
from workers.background.cleanup import Cleanup
from workers.background.delayed_events import DelayedEventSender
from workers.background.pending_work import PendingWork
from workers.background.search_index import SearchIndex
from workers.background.user_directory import UserDirectoryJob


def compose(foundation: Foundation) -> Worker:
    cleanup = Cleanup(foundation.database, foundation.clock, foundation.config.accounts)
    search_index = SearchIndex(foundation.database)
    user_directory = UserDirectoryJob(foundation.database, foundation.config.server_name)
    pending_work = PendingWork(foundation.database, foundation.calls)
    delayed = DelayedEventSender(
        foundation.database,
        foundation.writer.write,
        foundation.calls.to(SEND_DELAYED_EVENT),
        foundation.tasks,
        foundation.clock,
    )

    async def start() -> None:
        foundation.tasks.forever(cleanup.run, "cleanup")
        foundation.tasks.forever(search_index.run, "search index")
        foundation.tasks.forever(user_directory.run, "user directory")
        foundation.tasks.forever(delayed.run, "delayed events")
        foundation.tasks.forever(pending_work.run, "pending work")

    return Worker(handlers={}, start=start)
