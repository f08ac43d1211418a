# app.py
import psycopg
from bus import OrderPlaced, bus
from flask import Flask, abort, request
from sqlalchemy import create_engine, text
from sqlalchemy.orm import scoped_session, sessionmaker

from pgbus.contrib.flask import PgBus

# With Flask-SQLAlchemy, this is `db.session`.
engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(bus.config.dsn))
session = scoped_session(sessionmaker(engine))
events = PgBus(bus, session=session)


def create_app() -> Flask:
    app = Flask(__name__)
    events.init_app(app)

    @app.post("/orders")
    def place_order() -> tuple[dict[str, int], int]:
        item = request.args["item"]
        inserted = session.execute(text("INSERT INTO orders (item) VALUES (:item) RETURNING id"), {"item": item})
        order_id = inserted.scalar_one()
        events.bus.publish_sync(OrderPlaced(order_id, item))
        if item == "nothing":
            abort(422)
        session.commit()
        return {"order_id": order_id}, 201

    @app.get("/parcels")
    def count_parcels() -> dict[str, int]:
        return {"parcels": session.execute(text("SELECT count(*) FROM parcels")).scalar_one()}

    @app.get("/prices/<item>")
    def get_price(item: str) -> dict[str, int]:
        return {"price": bus.call_sync("prices.get_price", {"item": item})}

    @app.teardown_appcontext
    def end_session(_: BaseException | None) -> None:
        session.remove()

    return app
