"""JSON shapes on the wire, parsed and built: one module for each."""
