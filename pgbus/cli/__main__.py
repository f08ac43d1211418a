"""`python -m pgbus.cli`: how `pgbus run` starts its own copies."""

from pgbus.cli.program import main

main()
