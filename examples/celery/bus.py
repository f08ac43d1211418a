# bus.py
from dataclasses import dataclass

import asyncpg

import pgbus

bus = pgbus.create(service_name="shop")


@pgbus.event("orders.placed")
@dataclass
class OrderPlaced:
    order_id: int
    email: str


@pgbus.event("receipts.sent")
@dataclass
class ReceiptSent:
    order_id: int


@bus.listener(ReceiptSent, name="note_receipt", transactional=True)
async def note_receipt(receipt: ReceiptSent, connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE orders SET receipt_sent = true WHERE id = $1", receipt.order_id)
