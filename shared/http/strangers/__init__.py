"""Outgoing HTTP to servers that other people choose."""
