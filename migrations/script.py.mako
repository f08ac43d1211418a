<% script = "_".join([up_revision, *message.lower().split()]) %>\
"""${message}."""

from pgbus.database.migrate.scripts import execute_script

revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_script("${script}_upgrade.sql")


def downgrade() -> None:
    execute_script("${script}_downgrade.sql")
