"""The admin program: what virt-admin shows and does, held against the real virtlockd."""
