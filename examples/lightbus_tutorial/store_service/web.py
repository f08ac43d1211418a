"""The pet store's pages. Run `flask --app web run --port 5001` here, and the worker of the image service."""

from bus import bus
from flask import Flask

app = Flask(__name__)


def image_of(pet: int) -> str:
    url = bus.image.resize(url=f"https://example.com/pets/{pet}.jpg", width=200, height=200)
    return f'<img src="{url}" alt="pet {pet}">'


@app.get("/")
def home() -> str:
    pets = "".join(f'<a href="/pet/{pet}">{image_of(pet)}</a>' for pet in range(3))
    bus.store.page_viewed.fire(url="/")
    return f"<h1>Pets</h1>{pets}"


@app.get("/pet/<int:pet>")
def show(pet: int) -> str:
    image = image_of(pet)
    bus.store.page_viewed.fire(url=f"/pet/{pet}")
    return f"<h1>Pet {pet}</h1>{image}"
