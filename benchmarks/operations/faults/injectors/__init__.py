"""Injectors: each does one fault to a running project, from outside, and undoes it where it is one that ends by itself.

They use signals, limits of the kernel, files, mounts, SQLite, sockets, commands and HTTP as anybody could. Nothing of
the product's faults, detectors or thresholds is used, and nothing is read of what the platform measures.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.operations.faults.injectors.callers import CALLERS
from benchmarks.operations.faults.injectors.descriptors import DESCRIPTORS
from benchmarks.operations.faults.injectors.injector import Injector
from benchmarks.operations.faults.injectors.limits import LIMITS
from benchmarks.operations.faults.injectors.machine import MACHINE
from benchmarks.operations.faults.injectors.network import NETWORK
from benchmarks.operations.faults.injectors.operators import OPERATORS
from benchmarks.operations.faults.injectors.processes import PROCESSES
from benchmarks.operations.faults.injectors.programs import PROGRAMS
from benchmarks.operations.faults.injectors.records import RECORDS
from benchmarks.operations.faults.injectors.seen import SEEN_INJECTORS
from benchmarks.operations.faults.injectors.sources import SOURCES
from benchmarks.operations.faults.injectors.stores import STORES

INJECTORS: Mapping[str, Injector] = (
    SEEN_INJECTORS | PROCESSES | STORES | SOURCES | CALLERS | OPERATORS | DESCRIPTORS | LIMITS | NETWORK | MACHINE
    | RECORDS | PROGRAMS
)  # fmt: skip
