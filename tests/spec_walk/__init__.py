"""Every operation of the specification's client-server API, called on a real fleet and held against its OpenAPI data.

`operations.py` reads the data, `schema_faults.py` compares, `walker.py` calls and keeps the record; the steps are
functions in `steps/`, one module for each group of endpoints; `test_spec_walk.py` runs them and judges the record.
"""
