"""The engines: the contract that each has to keep, and what each does beyond it."""
