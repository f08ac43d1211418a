"""Operations: every change that a person makes."""

from pgbus.database.migrate.scripts import execute_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_script("0006_operations_upgrade.sql")


def downgrade() -> None:
    execute_script("0006_operations_downgrade.sql")
