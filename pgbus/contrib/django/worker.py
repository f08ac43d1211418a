"""The module for `pgbus run` in a Django project: it sets up Django, which declares all listeners, and holds the
bus.
"""

import django
from django.apps import apps

if not apps.ready:
    django.setup()

from pgbus.contrib.django.project import get_bus

bus = get_bus()
