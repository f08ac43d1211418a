"""`manage.py` of the project, on the database of `PGBUS_DSN`."""

import os
import sys

from psycopg.conninfo import conninfo_to_dict

from tests.support.django_project import KEYWORDS


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.support.django_project.settings")
    from django.conf import settings
    from django.core.management import execute_from_command_line

    found = conninfo_to_dict(os.environ["PGBUS_DSN"])
    place = {key: str(found.get(name) or "") for key, name in KEYWORDS.items()}
    for database in settings.DATABASES.values():
        database.update(place)
    settings.DATABASES["second"]["TEST"] = {"MIRROR": "default"}
    execute_from_command_line(["manage.py", *sys.argv[1:]])


if __name__ == "__main__":
    main()
