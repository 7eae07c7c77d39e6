"""Talking to other servers: the rules of the server-server API that need no network."""
