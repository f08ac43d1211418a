"""The database is that of PGBUS_DSN: the orders and the bus are in one database, so that they commit together."""

import os

import django
from psycopg.conninfo import conninfo_to_dict

_dsn = conninfo_to_dict(os.environ["PGBUS_DSN"])

SECRET_KEY = "of an example"
DEBUG = True
USE_TZ = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "bakery.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "pgbus.contrib.django",
    "orders",
]
if django.VERSION < (6,):
    INSTALLED_APPS.append("django_tasks")
MIDDLEWARE = [
    "pgbus.contrib.django.middleware.caused_by_request",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _dsn.get("host", ""),
        "PORT": _dsn.get("port", ""),
        "NAME": _dsn.get("dbname", ""),
        "USER": _dsn.get("user", ""),
        "PASSWORD": _dsn.get("password", ""),
        "ATOMIC_REQUESTS": True,
    }
}
PGBUS = {"SERVICE_NAME": "bakery", "REQUIRE_TRANSACTION": True}
TASKS = {"default": {"BACKEND": "pgbus.contrib.django.tasks.PgBusBackend", "OPTIONS": {"retry": 3}}}
