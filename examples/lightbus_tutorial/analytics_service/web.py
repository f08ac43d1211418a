"""The pages. Run `python -m django migrate --run-syncdb --settings settings`, then `python web.py [PORT]` here."""

import os
import sys
from wsgiref.simple_server import make_server

from bus import bus
from django.core.wsgi import get_wsgi_application
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from pgbus import LightbusTimeout


def view_page(request: HttpRequest, page: str) -> HttpResponse:
    from analytics.models import PageView

    with transaction.atomic():
        PageView.objects.create(url=page)
        # Django's own connection, so the event is on the bus if and only if the row is in the table.
        bus.analytics.page_viewed.fire(url=page, using=connection)
        if "fail" in request.GET:
            raise ValueError("this page fails after it has fired its event")
    return HttpResponse(f"You are viewing {page}. {total_of(page)}")


def total_of(url: str) -> str:
    try:
        return f"Views counted so far: {bus.analytics.get_total(url=url)}"
    except LightbusTimeout:  # such as NoWorkerAvailable, which is raised at once
        return "The analytics service is not running: start its worker with `pgbus run`."


urlpatterns = [path("pages/<slug:page>", view_page)]

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with make_server("127.0.0.1", port, get_wsgi_application()) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
