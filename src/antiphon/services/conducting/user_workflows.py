"""Workflows of the user's own as durable runs: ordered with the code that they were ordered under, and called.

Invariant: a run does not go on under other code than its steps were recorded under. One without a recorded step begins
under the code that there is.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec

from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    DeadlineExceededError,
    InvalidInputError,
    UnavailableError,
)
from antiphon.core.scope import Scope
from antiphon.definitions.assets import workflow_definition
from antiphon.definitions.schedules import WorkflowWork
from antiphon.definitions.workflows import WorkflowSpec, file_hash, workflow_arguments
from antiphon.durable.context import RunContext
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Resource
from antiphon.orchestration.conductor.assets import PartOrder
from antiphon.services.project.store import Store
from antiphon.services.workflows import USER_WORKFLOWS
from antiphon.serving.user_functions import UserFunctions

_LOADED = "__antiphon_code__"
CHANGED = "Order it anew, and cancel this run: what it did so far stays done."
CHANGED_UNDONE = (
    "Put back the code that it was ordered under, `antiphon restart worker` and `antiphon runs retry` it; or undo its "
    "steps by hand, and say so of each with `antiphon runs skip`."
)


class WorkflowOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of a workflow; ``code`` is the hash of its module's file at the order, ``part`` the part of an asset that
    it makes."""

    workflow: str
    spec: WorkflowSpec
    arguments: dict[str, Any]
    code: str
    principal: str
    part: PartOrder | None = None


class WorkflowFailedError(AntiphonError):
    """A workflow of the user's own raised, or took too long; it is tried again. What it raised stands in its run."""

    code = "workflow_failed"
    http_status = 500


class WorkflowEndedError(AntiphonError):
    """A workflow of the user's own raised what it declares as final: another attempt would not mend it."""

    code = "workflow_ended"
    http_status = 422


class UserWorkflows:
    """Orders and runs workflows of one project's own modules."""

    def __init__(self, store: Store) -> None:
        self._store = store
        settings = store.settings.project
        folder = (store.paths.root / settings.definitions).parent
        self._functions = UserFunctions(settings.workflow_modules, folder, "workflow_modules")

    def order(
        self, scope: Scope, by: Principal, work: WorkflowWork, key: str, part: PartOrder | None = None,
        *, as_applied: bool = False,
    ) -> str:  # fmt: skip
        """Submit a run; its id.

        Args:
            part: of the asset that it makes.
            as_applied: only under the code that was applied, for the part is stale by that.

        Raises:
            SetupError: its module may not be imported here. InvalidInputError: it cannot be, or the arguments are not
                its own. ForbiddenError: policy does not let this principal order it. ConflictError: the code here is
                another than was applied.
        """
        spec = work.workflow
        context = {"environment": scope.environment, "tenant": scope.tenant}
        self._store.decider.require(by, "batch", Resource("workflow", spec.name, scope.tenant), context)
        function, code = self._imported(spec)
        if as_applied and code != spec.code:
            raise ConflictError(
                f"The code of {spec.name} in this worker is another than what was applied.",
                where=spec.function,
                next_step="`antiphon apply` takes the file as it is, `antiphon restart worker` imports it anew.",
            )
        arguments = dict(work.arguments)
        if part is not None:
            part = msgspec.structs.replace(part, definition=workflow_definition(spec.function, code, work.arguments))
            if spec.partitions is not None:
                arguments[spec.partitions.parameter] = part.part.partition
        try:
            msgspec.convert(arguments, workflow_arguments(function))
        except msgspec.ValidationError as error:
            raise InvalidInputError(
                f"{error}.", where=spec.function, next_step="Mend the schedule's arguments."
            ) from None
        order = WorkflowOrder(spec.name, spec, arguments, code, by.id, part)
        name = USER_WORKFLOWS[spec.work]
        return self._store.runs.submit(scope, name, msgspec.to_builtins(order), key, max_attempts=spec.attempts)

    async def run(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call the function; what it returns is the run's result.

        Raises:
            ConflictError: steps were recorded under other code. UnavailableError: this worker has older code than the
                file. WorkflowFailedError: it raised, or took longer than it declares. WorkflowEndedError: it raised
                what it declares as final.
        """
        order = msgspec.convert(arguments, WorkflowOrder)
        spec = order.spec
        waits = {"first_wait": timedelta(seconds=spec.backoff), "longest_wait": timedelta(seconds=spec.longest_backoff)}
        run.policy = msgspec.structs.replace(run.policy, rollback=spec.rollback, **waits)
        run.failure = partial(_failure, order)
        function, loaded = await asyncio.to_thread(self._imported, order.spec)
        if loaded != order.code:
            if run.resumed:
                raise ConflictError(
                    f"The code of {order.workflow} is another than that of the steps that are done.",
                    where=order.spec.function,
                    next_step=CHANGED_UNDONE if run.is_rolled_back else CHANGED,
                )
            if loaded != _hash_of(order.spec):
                raise UnavailableError(
                    f"The worker has older code of {order.workflow} than its file.",
                    where=order.spec.function,
                    next_step="`antiphon restart worker` takes the new one.",
                )
        values = msgspec.structs.asdict(msgspec.convert(order.arguments, workflow_arguments(function)))
        try:
            async with asyncio.timeout(order.spec.timeout) as bound:
                return {"result": await function(run, **values)}
        except Exception as error:
            late = isinstance(error, TimeoutError) and bound.expired()
            raised = _failure(order, error, f"took longer than {order.spec.timeout:g} s" if late else "")
            if raised is error:
                raise
            raise raised from error

    def _imported(self, spec: WorkflowSpec) -> tuple[Any, str]:
        """The function, and the hash of its module's file as it was imported."""
        try:
            function = self._functions.function(spec.function)
        except AntiphonError:
            raise
        except Exception as error:  # Its module runs as it is imported.
            raise InvalidInputError(
                f"{spec.function} cannot be imported: {type(error).__name__}: {error}.",
                where="workflow",
                next_step="Put the module beside definitions.py, or install it, on each host with a worker.",
            ) from None
        module = sys.modules[spec.function.partition(":")[0]]
        # On the module: it stays what it was imported from, whoever asks and whatever the file becomes.
        loaded: str = module.__dict__.setdefault(_LOADED, _hash_of(spec))
        return function, loaded


def _failure(order: WorkflowOrder, error: Exception, why: str = "") -> Exception:
    """The error of a run whose workflow raised one: it has that one's message, and says if there is another attempt."""
    ends = order.spec.ends(error)
    if isinstance(error, AntiphonError) and not (ends and isinstance(error, DeadlineExceededError)):
        return error
    kind = WorkflowEndedError if ends else WorkflowFailedError
    why = why or f"raised {type(error).__name__}: {error}".rstrip(".")
    return kind(f"{order.workflow} {why}.", where=order.spec.function)


def _hash_of(spec: WorkflowSpec) -> str:
    """The hash of the file that a workflow's module was imported from."""
    return file_hash(getattr(sys.modules.get(spec.function.partition(":")[0]), "__file__", None))
