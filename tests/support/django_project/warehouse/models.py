from django.db import models


class Item(models.Model):
    name = models.TextField()
    quantity = models.IntegerField(default=1)


class Arrival(models.Model):
    """What listeners have heard."""

    item = models.TextField()
    listener = models.TextField()
