"""The lock table, with the engine of files on real files, held against the kernel's own table."""
