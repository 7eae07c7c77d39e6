"""Unread counts. Spec: client-server API, "Receiving notifications", "Marking notifications as read"."""

from shared.core.unread.counts import Count, RoomCounts

__all__ = ["Count", "RoomCounts"]
