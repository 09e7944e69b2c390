"""What the Linux kernel does and reports. Each fact about it is here once, with its source.

Record locks, the mount table, file systems, processes, descriptors and the peers of sockets. Nothing in here knows
of guests, lockspaces or protocols, and no module imports anything of lockd outside this package.
"""
