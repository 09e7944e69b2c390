"""Who holds what: the lock table, its lockspaces and resources, and the contract that an engine keeps.

Pure bookkeeping: no system calls, no protocol, nothing asynchronous. The table belongs to one thread.
"""
