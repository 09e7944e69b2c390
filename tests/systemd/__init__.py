"""lockd as a service of a real systemd."""
