"""Live upgrades: no lock, client or call may be lost, whatever goes wrong."""
