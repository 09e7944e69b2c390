"""`lockd.libvirt`: libvirt's configuration files, and where its sockets and files are."""
