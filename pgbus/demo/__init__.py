"""A shop that publishes an event for each order.

`pgbus demo` runs it all and checks the result; `pgbus run pgbus.demo` runs its listeners only.
"""

from pgbus.demo.listeners import bus

__all__ = ["bus"]
