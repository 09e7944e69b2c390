"""What `lockd.wire` says, held against xdrlib3 as an independent codec."""
