"""The way of one request over instances that did not take it."""

from __future__ import annotations

from antiphon.core.errors import AntiphonError, EngineError, NotFoundError
from antiphon.engine.routing.route import Route


class Attempts:
    """Instances that a request was given to, and the reasons why they did not take it."""

    def __init__(self) -> None:
        self.tried: list[Route] = []
        self.errors: list[AntiphonError] = []

    def failed(self, route: Route, error: AntiphonError) -> None:
        self.tried.append(route)
        self.errors.append(error)

    @property
    def over(self) -> bool:
        """True when two instances failed under it."""
        return sum(isinstance(error, EngineError) for error in self.errors) > 1

    def refusal(self) -> AntiphonError:
        """The error for the caller: an instance that is full, say, rather than one that lacks the model."""
        known = [error for error in self.errors if not isinstance(error, NotFoundError)]
        return (known or self.errors)[-1]
