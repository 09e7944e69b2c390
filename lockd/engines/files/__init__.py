"""The engine of files: record locks on disks, and on lease files in lockspace directories."""
