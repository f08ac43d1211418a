"""Schedules, their runs, and the views for people who audit."""

from pgbus.database.migrate.scripts import execute_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_script("0004_schedules_upgrade.sql")


def downgrade() -> None:
    execute_script("0004_schedules_downgrade.sql")
