"""What peers and machines may do to the daemon, and what it does then."""
