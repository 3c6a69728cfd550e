"""The dashboard: pages for a person, over the same services as the API."""

from antiphon.gateway.dashboard.pages import Pages
from antiphon.gateway.dashboard.routes import routes

__all__ = ["Pages", "routes"]
