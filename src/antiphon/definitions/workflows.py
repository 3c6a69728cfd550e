"""Workflows of the user's own: functions whose steps survive a crash, declared by ``@workflow``.

A function stands in a module that ``[project] workflow_modules`` names, for whoever may apply a definition could
otherwise run code of any module in the worker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.tools import arguments_type

F = TypeVar("F", bound=Callable[..., Any])
_DECLARED = "__antiphon_workflow__"

WorkClass = Literal["refresh", "backfill", "training", "evaluation", "batch"]
"""Classes of work that windows keep apart: refreshes of views, backfills of views and datasets, trainings, evaluations,
batch jobs."""

EXPENSIVE: tuple[WorkClass, ...] = ("backfill", "training", "evaluation", "batch")
"""Classes of work that a freeze or window is about unless it says otherwise: features stay fresh."""


class WorkflowSpec(msgspec.Struct, frozen=True):
    """A workflow as a plain value.

    Attributes:
        function: ``module:function``.
        work: the class by which freezes and windows hold it.
        attempts: of a run, at most; each goes on after the last recorded step.
        timeout: seconds of an attempt, at most; ``None``: no bound.
    """

    name: str
    function: str
    work: WorkClass = "batch"
    attempts: int = 5
    timeout: float | None = None


def workflow(
    *, name: str = "", work: WorkClass = "batch", attempts: int = 5, timeout: float | None = None
) -> Callable[[F], F]:
    """Makes a coroutine function a workflow: ``async def nightly(run, day: str)``.

    ``await run.step(name, function, *args)`` calls a function at least once, a synchronous one in a thread, and records
    what it returned as JSON: an attempt that follows gets the record. ``run.progress(done, total, note)`` says how far
    the run is.

    Args:
        name: the function's own by default.
        work: the class of work by which freezes and windows hold it.
        attempts: of a run, at most; each goes on after the last recorded step.
        timeout: seconds of an attempt, at most.

    Raises:
        InvalidInputError: it is no coroutine function, or a parameter has no type that JSON has.
    """

    def declare(function: F) -> F:
        if not inspect.iscoroutinefunction(function) or not inspect.signature(function).parameters:
            raise InvalidInputError(
                f"The workflow {function.__name__!r} is no `async def` with a run as its first parameter.",
                where="workflow",
                next_step="Write `async def NAME(run, …)`.",
            )
        workflow_arguments(function)
        place = f"{function.__module__}:{function.__qualname__}"
        setattr(function, _DECLARED, WorkflowSpec(name or function.__name__, place, work, attempts, timeout))
        return function

    return declare


def workflow_spec(declared: Any) -> WorkflowSpec | None:
    """The specification of a function that was declared as a workflow; ``None`` of anything else."""
    found = getattr(declared, _DECLARED, None)
    return found if isinstance(found, WorkflowSpec) else None


def workflow_arguments(function: Callable[..., Any]) -> type[msgspec.Struct]:
    """The type that a workflow's arguments are read as, without its run; raises ``InvalidInputError`` where a parameter
    has no type that JSON has."""
    run = next(iter(inspect.signature(function).parameters))
    return arguments_type(function, without=run, noun="workflow")


def workflow_mistakes(function: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with a workflow and the arguments that a schedule gives it, a sentence each."""
    spec = workflow_spec(function)
    if spec is None:
        yield f"{function!r} is no function under @workflow."
        return
    if spec.function.startswith("antiphon_project_definitions:"):
        yield f"{spec.name!r} stands in definitions.py; put it into a module that [project] workflow_modules names."
    if not 1 <= spec.attempts <= 100:
        yield f"{spec.name!r}: attempts are from 1 to 100, not {spec.attempts!r}."
    if spec.timeout is not None and not 0 < spec.timeout <= 7 * 86_400:
        yield f"{spec.name!r}: timeout is in seconds, above 0 and at most a week, not {spec.timeout!r}."
    try:
        msgspec.convert(arguments, workflow_arguments(function))
    except msgspec.ValidationError as error:
        yield f"arguments of {spec.name!r}: {error}."
