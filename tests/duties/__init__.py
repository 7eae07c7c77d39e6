"""Duties that are broken on purpose: the tests that `tests/duties.tsv` names must notice."""
