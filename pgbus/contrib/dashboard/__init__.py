"""The dashboard: pages on what a bus does, served by `pgbus dashboard` or mounted in an ASGI application.

    ann = by_password("ann", os.environ["DASHBOARD_PASSWORD"], role="operator")
    app.mount("/pgbus", Dashboard(config, allow=ann))

Readers look; operators and admins change things, each by an operation that names them. Without `allow` it is closed.
"""

from pgbus.contrib.dashboard.access import Allow, Person, Role, any_of, by_password, by_token
from pgbus.contrib.dashboard.app import Dashboard

__all__ = ["Allow", "Dashboard", "Person", "Role", "any_of", "by_password", "by_token"]
