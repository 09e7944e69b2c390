"""A lock daemon for virtual machine hosts: a drop-in replacement for libvirt's virtlockd."""
