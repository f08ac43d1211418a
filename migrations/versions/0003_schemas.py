"""Schemas by version, who speaks which, and the views for people who audit."""

from pgbus.database.migrate.scripts import execute_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_script("0003_schemas_upgrade.sql")


def downgrade() -> None:
    execute_script("0003_schemas_downgrade.sql")
