"""A whole fleet against a simple model: random people do random things in random rooms, and sync at random places.

`people.py` calls a fleet, `happenings.py` does one random thing and tells the model, `rules.py` and `counts.py` are the
naive reading of push rules and unread counts, `test_model.py` compares.
"""
