"""The project's own checks: what they find, and what they let pass."""
