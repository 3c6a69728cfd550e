"""Workflows of the user's own: functions whose steps survive a crash, declared by ``@workflow``.

A function stands in a module that ``[project] workflow_modules`` names, for whoever may apply a definition could
otherwise run code of any module in the worker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.definitions.partitions import DailyPartitions, KeyedPartitions, Partitions
from antiphon.definitions.tools import arguments_type

F = TypeVar("F", bound=Callable[..., Any])
_DECLARED = "__antiphon_workflow__"
_KINDS = {"FeatureView": "view", "Documents": "view", "Application": "release"}
"""Declarations that a workflow may read, by their class: importing them would load all of the vocabulary."""

WorkClass = Literal["refresh", "backfill", "training", "evaluation", "batch"]
"""Classes of work that windows keep apart: refreshes of views, backfills of views and datasets, trainings, evaluations,
batch jobs."""

RollbackPolicy = Literal["always", "on_failure", "on_cancel", "never"]
"""The end of a run at which its steps are undone, as far as they say how: when it failed for good, when it was
canceled, or both."""

EXPENSIVE: tuple[WorkClass, ...] = ("backfill", "training", "evaluation", "batch")
"""Classes of work that a freeze or window is about unless it says otherwise: features stay fresh."""


class WorkflowSpec(msgspec.Struct, frozen=True):
    """A workflow as a plain value.

    Attributes:
        function: ``module:function``.
        work: the class by which freezes and windows hold it.
        attempts: of a run, at most; each goes on after the last recorded step.
        timeout: seconds of an attempt, at most; ``None``: no bound.
        reads: keys of the assets that it is made from, ``KIND/NAME``.
        partitions: of what it makes; ``None``: it is made as one.
        code: hash of the file of its module.
        rollback: at which end of a run its recorded steps are undone, as far as they say how.
        backoff: seconds before the second attempt, doubled for every further one, ``longest_backoff`` at most.
        final: names of the errors after which there is no further attempt, ``MODULE.CLASS``.
    """

    name: str
    function: str
    work: WorkClass = "batch"
    attempts: int = 5
    timeout: float | None = None
    reads: tuple[str, ...] = ()
    partitions: Partitions | None = None
    code: str = ""
    rollback: RollbackPolicy = "always"
    backoff: float = 1.0
    longest_backoff: float = 300.0
    final: tuple[str, ...] = ()

    def ends(self, error: BaseException) -> bool:
        """Tells whether there is no further attempt after an error."""
        return any(_error_name(one) in self.final for one in type(error).__mro__)

    @property
    def key(self) -> str:
        """The key of the asset that it makes."""
        return f"workflow/{self.name}"


class FileAsset(msgspec.Struct, frozen=True):
    """Files that a workflow reads, by a path or pattern; ``{day}`` or ``{key}`` in it is the partition."""

    path: str

    @property
    def key(self) -> str:
        """The key of the asset."""
        return f"file/{self.path}"


def files(path: str) -> FileAsset:
    """Declares files that a workflow reads: ``files("events/{day}.csv")`` is one of each day.

    Args:
        path: of a file, from the folder of the definitions or from the root; brackets, stars and question marks are a
            pattern. Of a partitioned workflow ``{day}`` or ``{key}`` stands for the partition.
    """
    return FileAsset(path)


def workflow(
    *,
    name: str = "",
    work: WorkClass = "batch",
    attempts: int = 5,
    timeout: float | None = None,
    reads: Sequence[Any] = (),
    partitions: Partitions | None = None,
    rollback: RollbackPolicy = "always",
    backoff: str = "1s",
    longest_backoff: str = "5m",
    final: Sequence[type[Exception]] = (),
) -> Callable[[F], F]:
    """Makes a coroutine function a workflow: ``async def nightly(run, day: str)``.

    ``await run.step(name, function, *args)`` calls a function at least once, a synchronous one in a thread, and records
    what it returned as JSON: an attempt that follows gets the record. ``run.progress(done, total, note)`` says how far
    the run is.

    ``await run.step(…, undo=function)`` says what undoes the step: a function of its result, which is called when the
    run fails for good or is canceled, the last step first.

    What the function returns is a version of what it makes: where that comes out as before, nothing that reads it is
    made anew. One that returns nothing is taken to have made something new each time.

    Args:
        name: the function's own by default.
        work: the class of work by which freezes and windows hold it.
        attempts: of a run, at most; each goes on after the last recorded step.
        timeout: seconds of an attempt, at most.
        reads: what it is made from: other workflows, ``files(…)``, views, applications (the live release), or the keys
            of assets, such as ``"view/calls"``.
        partitions: ``daily(…)`` or ``keyed(…)``: a run makes one of them, and the function takes it as its parameter
            ``day`` or ``key``.
        rollback: when steps are undone that say how: ``on_failure`` of a run for good, ``on_cancel``, ``always`` (at
            both) or ``never``.
        backoff: the wait before the second attempt, doubled for every further one, and ``longest_backoff`` at most.
        final: classes of errors that another attempt would not mend, such as ``ValueError``: the run fails at once.

    Raises:
        InvalidInputError: it is no coroutine function, a parameter has no type that JSON has, what it reads is no
            asset, its partitions are none, a wait is no duration, or what is final is no class of errors.
    """

    def declare(function: F) -> F:
        if not inspect.iscoroutinefunction(function) or not inspect.signature(function).parameters:
            raise InvalidInputError(
                f"The workflow {function.__name__!r} is no `async def` with a run as its first parameter.",
                where="workflow",
                next_step="Write `async def NAME(run, …)`.",
            )
        workflow_arguments(function)
        if not isinstance(partitions, DailyPartitions | KeyedPartitions | None):
            raise InvalidInputError(
                f"The workflow {function.__name__!r} has partitions={partitions!r}, which are none.",
                where="workflow",
                next_step="Write daily('2026-11-01') or keyed('de', 'fr').",
            )
        place = f"{function.__module__}:{function.__qualname__}"
        read = tuple(dict.fromkeys(_asset_key(one, function.__name__) for one in reads))
        code = file_hash(function.__code__.co_filename)
        first, longest = (parse_duration(one).total_seconds() for one in (backoff, longest_backoff))
        for one in final:
            if not isinstance(one, type) or not issubclass(one, Exception):
                raise InvalidInputError(
                    f"The workflow {function.__name__!r} has final={final!r}, and {one!r} is no class of errors.",
                    where="workflow",
                    next_step="Write final=(ValueError,).",
                )
        ending = tuple(map(_error_name, final))
        spec = WorkflowSpec(
            name or function.__name__, place, work, attempts, timeout, read, partitions, code, rollback, first,
            longest, ending,
        )  # fmt: skip
        setattr(function, _DECLARED, spec)
        return function

    return declare


def workflow_spec(declared: Any) -> WorkflowSpec | None:
    """The specification of a function that was declared as a workflow; ``None`` of anything else."""
    found = getattr(declared, _DECLARED, None)
    return found if isinstance(found, WorkflowSpec) else None


def _error_name(error: type) -> str:
    return f"{error.__module__}.{error.__qualname__}"


def file_hash(path: str | None) -> str:
    """The hash of a file of code; empty where there is none."""
    return content_hash(Path(path).read_bytes()) if path is not None and Path(path).is_file() else ""


def asset_key(declared: Any) -> str | None:
    """The key of the asset that a declared view, documents or application is; ``None`` of anything else."""
    kind = _KINDS.get(type(declared).__name__)
    return None if kind is None else f"{kind}/{declared.name}"


def _asset_key(read: Any, reader: str) -> str:
    """The key of an asset that is named by what declares it."""
    if isinstance(read, str) and "/" in read:
        return read
    if isinstance(read, FileAsset) and isinstance(read.path, str):
        return read.key
    if (spec := workflow_spec(read)) is not None:
        return spec.key
    key = asset_key(read)
    if key is None:
        raise InvalidInputError(
            f"The workflow {reader!r} reads {read!r}, which is no asset.",
            where="workflow",
            next_step="Name a workflow, a view, an application, files(…), or a key such as 'view/calls'.",
        )
    return key


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
    if "<locals>" in spec.function:
        yield f"{spec.name!r} stands inside of a function, where no worker finds it; put it at the top of its module."
    if not 1 <= spec.attempts <= 100:
        yield f"{spec.name!r}: attempts are from 1 to 100, not {spec.attempts!r}."
    if spec.timeout is not None and not 0 < spec.timeout <= 7 * 86_400:
        yield f"{spec.name!r}: timeout is in seconds, above 0 and at most a week, not {spec.timeout!r}."
    if not 0 < spec.backoff <= spec.longest_backoff <= 86_400:
        yield f"{spec.name!r}: backoff is above 0 and at most longest_backoff, and that a day at most."
    if spec.rollback not in get_args(RollbackPolicy):
        yield f"{spec.name!r}: rollback is one of {', '.join(get_args(RollbackPolicy))}, not {spec.rollback!r}."
    whole = dict(arguments)
    if spec.partitions is not None:
        wrong = list(_parameter_mistakes(spec, spec.partitions, function, arguments))
        yield from wrong
        if wrong:
            return
        whole[spec.partitions.parameter] = sample(spec.partitions)
    try:
        msgspec.convert(whole, workflow_arguments(function))
    except msgspec.ValidationError as error:
        yield f"arguments of {spec.name!r}: {error}."


def sample(partitions: Partitions) -> str:
    """The name of a partition, whether it is there yet or not."""
    return partitions.first if isinstance(partitions, DailyPartitions) else partitions.keys[0]


def _parameter_mistakes(
    spec: WorkflowSpec, partitions: Partitions, function: Any, arguments: Mapping[str, Any]
) -> Iterator[str]:
    yield from partitions.mistakes()
    name = partitions.parameter
    if name in arguments:
        yield f"arguments of {spec.name!r}: {name} is the partition that each run makes; leave it out."
    if name not in list(inspect.signature(function).parameters)[1:]:
        yield f"{spec.name!r} is partitioned and takes no `{name}`; write `async def {spec.name}(run, {name}: str)`."
