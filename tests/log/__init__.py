"""The log: levels, filters and outputs. It never harms a lock and never delays a client."""
