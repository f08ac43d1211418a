"""What `pgbus run` imports in a Django project: it sets Django up, which declares all listeners, and has the bus."""

import django
from django.apps import apps

if not apps.ready:
    django.setup()

from pgbus.contrib.django.project import get_bus

bus = get_bus()
