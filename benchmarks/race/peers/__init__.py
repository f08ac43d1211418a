"""One program per peer. Each speaks the protocol of `benchmarks.race.peer` and runs in the peer's own environment."""
