"""The steps of the walk, by group: functions that call operations and say what must be in the answers."""
