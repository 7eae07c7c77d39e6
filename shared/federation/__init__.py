"""Asking other servers: finding them, signing requests to them, and knowing their keys."""
