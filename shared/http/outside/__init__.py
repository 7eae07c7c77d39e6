"""Requests to addresses that users or other servers choose."""
