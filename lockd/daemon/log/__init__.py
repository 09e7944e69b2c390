"""The log: its settings, the choice of messages, and their destinations."""
