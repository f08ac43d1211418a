"""Its settings; where the databases are is written into them for each test."""

from django import VERSION

SECRET_KEY = "of tests"
DEBUG = False
USE_TZ = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    *([] if VERSION >= (6,) else ["django_tasks"]),
    "pgbus.contrib.django",
    "tests.support.django_project.warehouse",
]
MIDDLEWARE = [
    "pgbus.contrib.django.middleware.caused_by_request",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "tests.support.django_project.urls"
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
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {"ENGINE": "django.db.backends.postgresql", "NAME": "nowhere"},
    "second": {"ENGINE": "django.db.backends.postgresql", "NAME": "nowhere"},
}
PGBUS = {"SERVICE_NAME": "warehouse"}
TASKS = {
    "default": {
        "BACKEND": "pgbus.contrib.django.tasks.PgBusBackend",
        "QUEUES": ["default", "emails"],
        "OPTIONS": {"retry": 2},
    },
    "transactional": {
        "BACKEND": "pgbus.contrib.django.tasks.PgBusBackend",
        "OPTIONS": {"transactional": True, "retry": 1},
    },
}
