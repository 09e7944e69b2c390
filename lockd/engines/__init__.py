"""Engines: what keeps the locks. Each is a package that implements the contract in ``lockd.locks.engine``."""
