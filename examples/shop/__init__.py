"""A shop that tells what happens in it.

`python -m examples.shop` runs it all and checks the result; `pgbus run examples.shop` runs its listeners only.
"""

from examples.shop.listeners import bus

__all__ = ["bus"]
