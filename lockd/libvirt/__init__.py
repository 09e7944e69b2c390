"""Files of libvirt: the syntax of its configuration, its paths, and the state document of virtlockd.

No module of this package imports anything of lockd from outside it.
"""
