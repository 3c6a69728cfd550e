"""Assets, what a run read and made of them, and the events that are told of it, as frozen values.

Invariant: none holds an entity's keys, a question, an answer, a row, a value of a column, or a person's name.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePath
from typing import Literal

import msgspec

AssetKind = Literal[
    "source", "view", "snapshot", "dataset", "model", "release", "evaluation", "safety-report", "regression-set",
    "regression-run", "trial", "job", "file", "answers", "report", "export", "workflow",
]  # fmt: skip
"""A ``view`` is a definition version, a ``snapshot`` its data; ``answers`` are those of an application, or with
``@JOB`` those that a job stored; an ``export`` the files of a version of its rows, ``NAME@VERSION``; a ``workflow`` is
what one of the user's own makes."""

OUTSIDE = "file"
"""Namespace of files outside the project's folder, whose names are absolute paths."""

EventType = Literal["START", "COMPLETE", "FAIL", "ABORT"]


class AssetReference(msgspec.Struct, frozen=True, order=True):
    """An asset by its kind and its id in the catalog.

    ``source`` is the source of what the id names: a definition version ``VIEW@VERSION`` or a snapshot.
    """

    kind: AssetKind
    id: str


class Column(msgspec.Struct, frozen=True):
    """Name and type of a column."""

    name: str
    type: str


class LineageDataset(msgspec.Struct, frozen=True):
    """A dataset as OpenLineage names one.

    Attributes:
        namespace, name: of the data whatever its version, in the form of OpenLineage's naming conventions.
        version: of the data: a snapshot's or another id, or a hash of the content.
        columns: names and types, where it has any.
        rows, bytes, files: how many, where that is known.
        alias: name of the same data elsewhere, with its namespace.
    """

    kind: AssetKind
    namespace: str
    name: str
    version: str | None = None
    columns: tuple[Column, ...] = ()
    rows: int | None = None
    bytes: int | None = None
    files: int | None = None
    alias: tuple[str, str] | None = None

    def placeless(self) -> LineageDataset:
        """The same without the folder of a file that lies outside the project."""
        if self.namespace != OUTSIDE:
            return self
        return msgspec.structs.replace(self, name=PurePath(self.name).name)

    @property
    def label(self) -> str:
        """Name and version in one word."""
        return self.name if self.version is None else f"{self.name} {self.version}"


class RunReferences(msgspec.Struct, frozen=True):
    """References of a run: the subject of its job, its inputs and outputs, the run that ordered it, and the moment for
    which it worked."""

    subject: str
    inputs: tuple[AssetReference, ...] = ()
    outputs: tuple[AssetReference, ...] = ()
    parent: str | None = None
    moment: datetime | None = None


class LineageEvent(msgspec.Struct, frozen=True):
    """A state that a run came to.

    Attributes:
        run: our id; ``run_id`` a UUID that follows from it, as is ``parent_id`` from that of the run which ordered it.
        job: ``WORKFLOW.SUBJECT``; ``parent_job`` that of the run which ordered it.
        moment: for which it worked, where it is not the time of the run.
        failed: a sentence, of a run that failed. It says where the reason stands: reasons quote what was read.
    """

    type: EventType
    at: datetime
    run: str
    run_id: str
    namespace: str
    job: str
    inputs: tuple[LineageDataset, ...] = ()
    outputs: tuple[LineageDataset, ...] = ()
    parent_id: str | None = None
    parent_job: str | None = None
    moment: datetime | None = None
    failed: str | None = None

    def placeless(self) -> LineageEvent:
        """The same without folders of files that lie outside the project."""
        inputs, outputs = (tuple(one.placeless() for one in each) for each in (self.inputs, self.outputs))
        return msgspec.structs.replace(self, inputs=inputs, outputs=outputs)
