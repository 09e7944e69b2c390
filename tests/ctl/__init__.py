"""lockctl, each command end to end on a running daemon."""
