"""What evaluating needs from other rooms. ``app`` passes the implementations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from antiphon.catalog.datasets import Dataset
from antiphon.catalog.releases import ModelPin, Release, StageMove
from antiphon.core.scope import Scope
from antiphon.serving.ports import FeatureReader
from antiphon.serving.request import Answer, AnswerRequest


class Answering(Protocol):
    """serving's ``answer()``, for one evaluation."""

    def __call__(self, request: AnswerRequest) -> Awaitable[Answer]: ...


class AnsweringOver(Protocol):
    """Makes serving's ``answer()`` with this reader of features and these releases, and everything else as served.

    ``once``: a prompt that comes again is not generated again. What is measured of time or cost must not be asked so.
    """

    def __call__(self, features: FeatureReader, releases: Any, *, once: bool = False) -> Answering: ...


class DatasetFiles(Protocol):
    """The lake, for reading a dataset's file."""

    def open(self, relative: str) -> BinaryIO:
        """Its clear content; raises ``CorruptionError`` when it is gone or changed."""
        ...

    def verify(self, relative: str, sha256: str) -> None:
        """Raises ``CorruptionError`` when the file is gone or is another one."""
        ...


class DatasetReader(Protocol):
    """Datasets, for reading."""

    def get(self, scope: Scope, dataset: str) -> Dataset:
        """One dataset; raises ``NotFoundError``."""
        ...


class ReleaseStages(Protocol):
    """Releases, for reading and for entering a stage."""

    def get(self, scope: Scope, release: str, *, within: Any = None) -> Release: ...
    def live(self, scope: Scope, application: str, *, within: Any = None) -> Release | None: ...
    def set_stage(
        self, scope: Scope, release: str, stage: Any, *, principal: str, reason: str, within: Any = None
    ) -> StageMove: ...


class Texts(Protocol):
    """Texts by their hash."""

    def get(self, scope: Scope, blob: str) -> bytes: ...
    def put(self, scope: Scope, content: bytes, *, within: Any = None) -> str: ...


FeatureExists = Callable[[Scope, str, str], bool]
"""Whether a definition version of a view is still known here: scope, view, version."""

WeightsOf = Callable[[ModelPin], Path | None]
"""Where the weights of a pinned base model lie, ``None`` for an engine whose weights are not on this machine."""

Progress = Callable[[int, int, str], None]
"""Told how far an evaluation is: done, of how many, at what."""
