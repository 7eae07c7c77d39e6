"""The numbered authorization rules of every room version, with events on both sides of each rule."""
