"""Puts a federation_sender together: so far it registers, owns its slots and is healthy."""

from replication.process.foundation import Foundation, Worker


def compose(foundation: Foundation) -> Worker:
    return Worker(handlers={})
