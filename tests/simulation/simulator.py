"""The simulator: plays seeds, on several processes of Python, with or without a planted fault."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random

import msgspec
from tests.simulation import (
    batches_scenario,
    conductor_scenario,
    evidence_scenario,
    publications_scenario,
    requests_scenario,
    rollouts_scenario,
    runs_scenario,
    streams_scenario,
)
from tests.simulation.catalog_file import CatalogFile
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.world import World

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""A folder in memory, where there is one."""

SCENARIOS: dict[str, Callable[[World], Awaitable[None]]] = {
    "runs": runs_scenario.play,
    "batches": batches_scenario.play,
    "requests": requests_scenario.play,
    "publications": publications_scenario.play,
    "rollouts": rollouts_scenario.play,
    "evidence": evidence_scenario.play,
    "streams": streams_scenario.play,
    "conductor": conductor_scenario.play,
}

_SHARES = [kind for kind in SCENARIOS for _ in range(1 if kind == "conductor" else 2)]
"""A seed of the conductor takes as long as four others, and has half of a share."""


class Played(msgspec.Struct, frozen=True):
    """What came of one seed.

    Attributes:
        digest: SHA-256 of its trace: the same whenever and wherever it is played again.
        seconds: of virtual time.
    """

    seed: int
    kind: str
    digest: str
    violations: tuple[str, ...]
    commits: int
    crashes: int
    seconds: float


def kind_of(seed: int) -> str:
    """The scenario that a seed plays."""
    return Random(f"kind {seed}").choice(_SHARES)


@contextmanager
def catalog_file(within: Path | None = MEMORY) -> Iterator[CatalogFile]:
    """A catalog in memory for the seeds of this process of Python, or in another folder."""
    with tempfile.TemporaryDirectory(prefix="antiphon-simulation-", dir=within) as folder:
        file = CatalogFile(Path(folder))
        try:
            yield file
        finally:
            file.close()


def world_of(file: CatalogFile, seed: int, kind: str | None = None) -> World:
    """Play a seed and return its world, for its trace."""
    world = World(file, seed)
    try:
        world.run(SCENARIOS[kind or kind_of(seed)])
    except Exception as error:
        world.violate(f"unexpected {type(error).__name__}: {error}")
    return world


def play(file: CatalogFile, seed: int, kind: str | None = None, mutant: Mutant | None = None) -> Played:
    """Play a seed; given a mutant with its fault."""
    chosen = kind or kind_of(seed)
    with nullcontext() if mutant is None else mutant.planted():
        world = world_of(file, seed, chosen)
    return Played(
        seed, chosen, world.digest, tuple(world.violations), world.commits, world.crashes, round(world.loop.time(), 3)
    )


def hunt(file: CatalogFile, mutant: Mutant, seeds: Sequence[int]) -> Played | None:
    """The first of these seeds that finds a planted fault; those that play another scenario are passed over."""
    with mutant.planted():
        for seed in seeds:
            if kind_of(seed) == mutant.kind and (played := play(file, seed)).violations:
                return played
    return None


def mutant_named(name: str) -> Mutant:
    """A planted fault by its name."""
    return next(mutant for mutant in MUTANTS if mutant.name == name)
