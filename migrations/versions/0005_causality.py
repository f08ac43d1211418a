"""Causality: the tree of an event."""

from pgbus.database.migrate.scripts import execute_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_script("0005_causality_upgrade.sql")


def downgrade() -> None:
    execute_script("0005_causality_downgrade.sql")
