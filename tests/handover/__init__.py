"""Live upgrades: nothing may be lost, whatever goes wrong."""
