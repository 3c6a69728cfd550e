"""Plays seeds again and prints what happened in each: ``python -m tests.simulation SEED … [--mutant NAME]``."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext

from tests.simulation.mutants import MUTANTS
from tests.simulation.simulator import catalog_file, kind_of, mutant_named, world_of


def main() -> int:
    """Returns 1 when an invariant was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="+")
    parser.add_argument("--mutant", choices=[mutant.name for mutant in MUTANTS], help="with this fault planted")
    chosen = parser.parse_args()
    violated = False
    with catalog_file() as file:
        for seed in chosen.seed:
            with mutant_named(chosen.mutant).planted() if chosen.mutant else nullcontext():
                world = world_of(file, seed)
            print("\n".join(world.trace))
            print(f"seed {seed} ({kind_of(seed)}): {len(world.violations)} violations, trace {world.digest}")
            violated |= bool(world.violations)
    return int(violated)


if __name__ == "__main__":
    sys.exit(main())
