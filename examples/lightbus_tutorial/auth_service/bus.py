"""The service that speaks for `auth`: it alone fires the events of that API. It needs no worker to do so."""

import pgbus
from pgbus import Api, Event


class AuthApi(Api):
    user_created = Event(parameters=("username", "email"))
    user_updated = Event(parameters=("username", "new_email"))
    user_deleted = Event(parameters=("username"))

    class Meta:
        name = "auth"


bus = pgbus.create(service_name="auth")
bus.client.register_api(AuthApi())
