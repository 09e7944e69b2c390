"""libvirt's files: its configuration syntax, its paths, and the state document that virtlockd reads and writes.

No module in here imports anything of lockd outside this package.
"""
