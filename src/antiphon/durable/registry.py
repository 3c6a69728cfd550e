"""The workflows a worker knows, by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.durable.context import RunContext

Workflow = Callable[[RunContext, dict[str, Any]], Awaitable[dict[str, Any]]]


class WorkflowRegistry:
    """Workflows by name. A worker claims only runs of workflows it knows."""

    def __init__(self) -> None:
        self._workflows: dict[str, Workflow] = {}

    def add(self, name: str, workflow: Workflow) -> None:
        """Register a workflow.

        Raises:
            ConflictError: the name is taken.
        """
        if name in self._workflows:
            raise ConflictError(f"A workflow {name!r} is registered already.", where="durable")
        self._workflows[name] = workflow

    def get(self, name: str) -> Workflow:
        """One workflow.

        Raises:
            NotFoundError: none of this name is registered.
        """
        try:
            return self._workflows[name]
        except KeyError:
            raise NotFoundError(f"There is no workflow {name!r}.", where="durable") from None

    @property
    def names(self) -> tuple[str, ...]:
        """Every registered name."""
        return tuple(sorted(self._workflows))
