from dataclasses import dataclass

import pgbus


@pgbus.event("bakery.order_placed")
@dataclass
class OrderPlaced:
    order_id: int
