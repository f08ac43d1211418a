from django.db import models


class PageView(models.Model):
    """A page was viewed: written by the web server."""

    url = models.TextField()


class CountedView(models.Model):
    """A view that the worker has counted, by the id of its event."""

    event_id = models.UUIDField(primary_key=True)
    url = models.TextField(db_index=True)
