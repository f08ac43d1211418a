"""Run by Alembic for every verb of `pgbus.migrate`, which opens the transaction, takes the lock and commits."""

from alembic import context
from alembic.util import CommandError

options = context.config.attributes.get("options")
if options is None:
    raise CommandError("databases are upgraded by `pgbus db upgrade`; Alembic's own command is for new revisions only")

context.configure(**options)
context.run_migrations()
