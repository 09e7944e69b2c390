"""Names to the kernel's locks and back: the lock table, lockspaces, resources, owners.

No protocol and nothing asynchronous. All but ``inodes`` and the system calls of ``resource`` belongs to one
thread; those two may run in a worker thread, for file systems that can block.
"""
