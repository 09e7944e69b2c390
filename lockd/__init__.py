"""A lock daemon for virtual machine hosts: a drop-in replacement for libvirt's virtlockd."""

__version__ = "0.1.0"
