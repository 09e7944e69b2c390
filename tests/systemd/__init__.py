"""lockd under a real systemd."""
