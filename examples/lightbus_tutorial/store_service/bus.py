"""The pet store's API. It has no listeners and no procedures, so it has a web server and no worker."""

import pgbus
from pgbus import Api, Event


class StoreApi(Api):
    page_viewed = Event(parameters=("url",))

    class Meta:
        name = "store"


bus = pgbus.create(service_name="store", flask=True)
bus.client.register_api(StoreApi())
