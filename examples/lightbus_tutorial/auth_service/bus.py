"""The service that registers the API `auth`: only it fires the API's events, and its workers serve its methods."""

import pgbus
from pgbus import Api, Event


class AuthApi(Api):
    user_created = Event(parameters=("username", "email"))
    user_updated = Event(parameters=("username", "new_email"))
    user_deleted = Event(parameters=("username"))

    class Meta:
        name = "auth"

    def check_password(self, username: str, password: str) -> bool:
        return username == "admin" and password == "secret"

    def create_user(self, name: str, email: str) -> None:
        print(f"creating {name}")
        # Plain methods run in a thread, so they may block.
        bus.auth.user_created.fire(username=name, email=email)


bus = pgbus.create(service_name="auth")
bus.client.register_api(AuthApi())
