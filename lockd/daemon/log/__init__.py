"""The log: what it is set to, which messages are wanted, where they go."""
