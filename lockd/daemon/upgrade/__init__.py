"""Live upgrade: the daemon saves its state, and the next program in the same process continues from it."""
