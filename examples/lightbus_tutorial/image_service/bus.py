"""A service that resizes images: here it only returns an address for the smaller image. Run `pgbus run` here."""

from urllib.parse import urlencode

import pgbus
from pgbus import Api


class ImageApi(Api):
    class Meta:
        name = "image"

    def resize(self, url: str, width: int, height: int) -> str:
        return f"https://images.example.com/{width}x{height}?{urlencode({'url': url})}"


bus = pgbus.create(service_name="image")
bus.client.register_api(ImageApi())
