from django.db import models


class Order(models.Model):
    cake = models.TextField()
    receipt = models.TextField(default="")  # the id of a task


class Bill(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="bills")
