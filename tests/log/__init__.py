"""The log: which messages are wanted, where they go, and that it never harms a lock or holds up a client."""
