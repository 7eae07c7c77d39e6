"""Puts a media worker together: so far it registers and is healthy."""

from replication.process.foundation import Foundation, Worker


def compose(foundation: Foundation) -> Worker:
    return Worker(handlers={})
