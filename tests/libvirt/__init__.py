"""An unmodified libvirtd and QEMU on the lock daemon."""
