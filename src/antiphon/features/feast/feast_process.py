"""Reads a repository with the user's own Feast in the user's own Python, which runs the repository's code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from antiphon.core.errors import DeadlineExceededError, InvalidInputError, SetupError
from antiphon.features.feast import dump
from antiphon.features.feast.repository import FeastRepository
from antiphon.features.feast.syntax import project_of, with_places

SECONDS = 120.0
"""Time limit of a repository's own code; importing Feast alone takes seconds."""


def read_with_feast(root: Path, python: Path, *, seconds: float = SECONDS) -> FeastRepository:
    """Let ``python``, which has Feast, import the repository and tell what it declares. That runs the user's code.
    Raises ``NotFoundError`` without ``feature_store.yaml``, ``SetupError`` when that Python is not there or has no
    Feast, ``InvalidInputError`` when the repository's own code fails, ``DeadlineExceededError`` when it does not
    end."""
    project_of(root)  # a folder without a repository is told before a process is started
    command = [str(python), str(Path(dump.__file__).resolve()), str(root.resolve())]
    try:
        ended = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    except OSError as error:
        raise SetupError(
            f"The Python {python} does not run: {error.strerror}.",
            where=str(python),
            next_step="Name a Python that has Feast.",
        ) from None
    except subprocess.TimeoutExpired:
        raise DeadlineExceededError(
            f"Reading the repository took longer than {seconds:.0f} s.", where=str(root)
        ) from None
    said = ended.stderr.decode(errors="replace").strip().splitlines()
    why = said[-1] if said else f"exit code {ended.returncode}"
    if ended.returncode == 3:
        raise SetupError(
            why, where=str(python), next_step="Name the Python that runs your Feast, or leave --python out."
        )
    if ended.returncode != 0:
        raise InvalidInputError(
            f"Feast cannot read the repository: {why}.", where=str(root), next_step="Try `feast plan`."
        )
    try:
        read = msgspec.json.decode(ended.stdout, type=FeastRepository)
    except msgspec.DecodeError as error:
        raise InvalidInputError(f"What Feast told is not understood: {error}.", where=str(root)) from None
    return with_places(read, root)
