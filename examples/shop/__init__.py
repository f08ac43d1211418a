"""A shop that publishes an event for each order.

`python -m examples.shop` runs it all and checks the result; `pgbus run examples.shop` runs its listeners only.
"""

from examples.shop.listeners import bus

__all__ = ["bus"]
