"""Puts a background worker together."""

from replication.calls import RoomCalls, UserCalls
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
    secret = foundation.config.secrets.internal_secret.reveal()
    rooms = RoomCalls(foundation.slots, foundation.http_client, foundation.clock, secret)
    users = UserCalls(foundation.slots, foundation.http_client, foundation.clock, secret)
    pending_work = PendingWork(foundation.database, rooms, users)
    delayed = DelayedEventSender(
        foundation.database, foundation.writer.write, rooms, foundation.tasks, foundation.clock
    )

    async def start() -> None:
        foundation.tasks.forever(cleanup.run, "cleanup")
        foundation.tasks.forever(search_index.run, "search index")
        foundation.tasks.forever(user_directory.run, "user directory")
        foundation.tasks.forever(delayed.run, "delayed events")
        foundation.tasks.forever(pending_work.run, "pending work")

    return Worker(handlers={}, start=start)
