"""The race: pgbus and its peers with the same work on the same server, each in an environment of its own.

`python -m benchmarks.race` (or `make race`) writes `benchmarks/RESULTS.md` and the plots of the documentation.
"""
