"""Attacks, one module for each area. `tests/hostile/enemy.py` finds them."""
