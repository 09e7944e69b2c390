"""Random frames to a daemon that is confined: any path may be sent, and no file outside of a scratch tree changes."""
