"""The commands that pgbus adds to `manage.py`."""
