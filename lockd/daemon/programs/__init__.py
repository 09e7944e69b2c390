"""The programs that a client can call, and what they answer: their refusals, and who holds what."""
