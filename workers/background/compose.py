"""Compose a background worker: a list of jobs."""

from replication.calls.rooms import SEND_DELAYED_EVENT
from replication.process.foundation import Foundation, Worker
from shared.metrics.background import BackgroundMetrics
from workers.background.cleanup import Cleanup
from workers.background.delayed_events import DelayedEventSender
from workers.background.pending_work import PendingWork
from workers.background.search import SearchIndexJob, UserDirectoryJob
from workers.background.watch import BackgroundWatch


def compose(foundation: Foundation) -> Worker:
    config, database, clock = foundation.config, foundation.database, foundation.clock
    metrics = BackgroundMetrics(foundation.registry)
    send_delayed_event = foundation.calls.to(SEND_DELAYED_EVENT)
    return Worker(
        jobs={
            "cleanup": Cleanup(database, clock, config.accounts, metrics).run,
            "search index": SearchIndexJob(database).run,
            "user directory": UserDirectoryJob(database, config.server_name).run,
            "delayed events": DelayedEventSender(
                database, foundation.writer.write, send_delayed_event, foundation.tasks, clock, metrics
            ).run,
            **PendingWork(database, foundation.calls, metrics).jobs(),
            "watch background work": BackgroundWatch(database, metrics, clock).run,
        }
    )
