"""lockctl: one module for each command."""
