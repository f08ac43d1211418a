from dataclasses import dataclass

import pgbus


@pgbus.event("warehouse.item_stored")
@dataclass
class ItemStored:
    name: str


@pgbus.event("warehouse.item_counted")
@dataclass
class ItemCounted:
    name: str
