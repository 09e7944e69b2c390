"""The admin program: lockd's answers to virt-admin, compared with those of the real virtlockd."""
