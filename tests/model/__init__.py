"""A whole fleet against a simple model: random people do random things in random rooms, and sync at random places.

| module | what |
|---|---|
| `people.py` | people and their devices, who call a fleet |
| `tale.py` | what has happened so far: attempts go to the server, what it accepted into the model |
| `memberships.py`, `happenings.py` | the random things that people do |
| `world.py` | the model: rooms as lists of events with the state at each, what a user may see |
| `rules.py`, `counts.py` | push rules and unread counts, read naively |
| `clients.py` | what clients make of answers, in classic and sliding sync |
| `checks.py` | how a client, or a list that the server keeps, differs from the model |
| `test_model.py` | runs drawn by hypothesis |
"""
