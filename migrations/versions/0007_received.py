"""Relays: what came from other systems, and the identity of this bus."""

from pgbus.database.migrate.scripts import execute_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_script("0007_received_upgrade.sql")


def downgrade() -> None:
    execute_script("0007_received_downgrade.sql")
