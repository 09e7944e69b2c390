"""What lockd does otherwise on purpose: what virtlockd does, and what lockd does instead.

docs/compatibility.md has a line for each test.
"""
