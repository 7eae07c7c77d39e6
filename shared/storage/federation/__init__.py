"""Rows about other servers."""
