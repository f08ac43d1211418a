"""How costs grow: a curve for each size of a bus, such as clients, listeners, events that wait, events of the log.

`python -m benchmarks scale` writes `benchmarks/SCALE.md` and the plots of the documentation.
"""
