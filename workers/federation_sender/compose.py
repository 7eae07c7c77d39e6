"""Compose a federation_sender. It registers and owns its slots, and has no work yet."""

from replication.process.foundation import Foundation, Worker


def compose(foundation: Foundation) -> Worker:
    return Worker()
