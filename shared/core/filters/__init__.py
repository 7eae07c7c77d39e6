"""Clients' filters: parsed and checked once, matched often. Spec: client-server API, "Filtering"."""

from shared.core.filters.event_filter import EventFilter
from shared.core.filters.filter import Filter, RoomFilter, parse_filter, parse_room_event_filter

__all__ = ["EventFilter", "Filter", "RoomFilter", "parse_filter", "parse_room_event_filter"]
