"""`lockd.locks` on real files, held against the kernel's own table."""
