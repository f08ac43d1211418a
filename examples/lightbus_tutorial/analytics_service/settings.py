"""Django's settings: its tables are in the database of the bus, so that a row and its event commit together."""

import os

from psycopg.conninfo import conninfo_to_dict

_dsn = conninfo_to_dict(os.environ["PGBUS_DSN"])

SECRET_KEY = "tutorial"  # of an example
DEBUG = True
INSTALLED_APPS = ["analytics"]
ROOT_URLCONF = "web"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _dsn.get("host", ""),
        "PORT": _dsn.get("port", ""),
        "NAME": _dsn.get("dbname", ""),
        "USER": _dsn.get("user", ""),
        "PASSWORD": _dsn.get("password", ""),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,  # so that the end of a kept connection is noticed
    }
}
