"""Two real Matrix clients behind one set of verbs, so that a test can mix them without knowing which is which."""
