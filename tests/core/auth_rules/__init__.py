"""The numbered authorization rules of every room version, and for each of them events on both of its sides."""
