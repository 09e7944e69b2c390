"""Each command of lockctl, end to end with a running daemon."""
