"""Encoding and decoding in `lockd.wire`, compared with xdrlib3, an independent codec."""
