"""Compose a media worker. It registers, and has no endpoints yet."""

from replication.process.foundation import Foundation, Worker


def compose(foundation: Foundation) -> Worker:
    return Worker()
