"""Bytes to values and back: frames, XDR, the programs, error replies.

Nothing here does I/O or knows a clock: bytes are fed in and bytes come out, so every case of the
protocol is tested without a socket. All numbers are big-endian XDR (RFC 4506).
"""
