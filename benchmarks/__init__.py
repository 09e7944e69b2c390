"""lockd beside the real virtlockd and a bare C server, measured in one run on one machine."""
