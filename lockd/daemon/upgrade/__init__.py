"""A live upgrade: what a daemon leaves to the next program in its process, and how that goes on from there."""
