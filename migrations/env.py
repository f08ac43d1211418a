"""Never run: the verbs of `pgbus.migrate` take Alembic's revisions and no environment, for that is one per process."""

from alembic.util import CommandError

raise CommandError("databases are upgraded by `pgbus db upgrade`; Alembic's own command is for new revisions only")
