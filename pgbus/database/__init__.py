"""Everything that touches a driver, SQLAlchemy or Alembic."""
