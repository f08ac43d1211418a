"""Calls: requests, responses, who serves what, and the view for people who audit."""

from pgbus.database.migrate.scripts import execute_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_script("0002_rpc_upgrade.sql")


def downgrade() -> None:
    execute_script("0002_rpc_downgrade.sql")
