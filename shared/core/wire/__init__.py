"""JSON shapes on the wire, one module each."""
