"""`python -m pgbus.cli`: how `pgbus run` starts its own copies."""

from pgbus.cli.main import main

main()
