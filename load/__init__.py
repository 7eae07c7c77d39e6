"""Load scenarios: one module each, run as `python -m load.NAME`. README.md tells how to read what they print."""
