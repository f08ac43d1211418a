"""The dashboard: pages on what a bus does, served by `pgbus dashboard` or mounted in an ASGI application.

    app.mount("/pgbus", Dashboard(config, allow=by_password("ops", os.environ["DASHBOARD_PASSWORD"])))

It reads and changes nothing. Without `allow` it is closed.
"""

from pgbus.contrib.dashboard.access import Allow, by_password, by_token
from pgbus.contrib.dashboard.app import Dashboard

__all__ = ["Allow", "Dashboard", "by_password", "by_token"]
