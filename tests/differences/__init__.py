"""Intended differences between lockd and virtlockd: for each, a test of virtlockd and a test of lockd.

docs/compatibility.md has a row for each test of lockd.
"""
