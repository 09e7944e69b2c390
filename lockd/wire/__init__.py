"""Encoding and decoding of the protocols: frames, XDR, the programs, and error replies.

Nothing in this package does I/O or reads a clock. Bytes are passed in and bytes are returned, so every case
of the protocol can be tested without a socket. All numbers are big-endian XDR (RFC 4506).
"""
