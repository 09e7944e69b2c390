"""An unmodified libvirtd and QEMU with lockd, and with virtlockd, as lock daemon."""
