"""The spine: outbox, log, listeners, deliveries, history, dead letters, workers, and the views for people who audit."""

from pgbus.database.migrate.scripts import execute_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_script("0001_spine_upgrade.sql")


def downgrade() -> None:
    execute_script("0001_spine_downgrade.sql")
