"""`lockd.linux`, held against what the kernel does and reports."""
