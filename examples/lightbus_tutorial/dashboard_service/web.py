"""Shows what the dashboard's worker has counted. Run `flask --app web run --port 5002` here."""

import json
from pathlib import Path

from flask import Flask

app = Flask(__name__)
VIEWS = Path("views.json")


@app.get("/")
def counts() -> dict[str, int]:
    views = json.loads(VIEWS.read_text()) if VIEWS.exists() else {}
    return {url: len(events) for url, events in views.items()}
