"""Input files of table jobs: an order reads what its principal may read in the place that the file is kept for.

Invariant: rows come back with the answers, so a file of source rows, labels or another principal's answers is read by
those alone whom policy lets read these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from antiphon.batch.ports import Jobs
from antiphon.batch.table_files import matches
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.serving.records import Records


class Inputs:
    """Checks input files.

    Args:
        sources: patterns of the files that the project reads, by what reads them: ``view/NAME``, or
            ``application/NAME`` for its outcomes.
    """

    def __init__(self, jobs: Jobs, records: Records, sources: Callable[[], Mapping[str, Sequence[str]]]) -> None:
        self._jobs = jobs
        self._records = records
        self._sources = sources

    def readers(self, path: Path) -> list[str]:
        """Views and outcomes that read this file."""
        return [reader for reader, patterns in self._sources().items() if matches(patterns, path)]

    def require_readable(self, scope: Scope, principal: Principal, path: Path) -> None:
        """Let policy decide about a file that holds source rows, labels, or answers of other principals.

        Raises:
            ForbiddenError: it denies.
        """
        for reader in self.readers(path):
            self._records.require_source(scope, principal, reader)
        for job in self._jobs.with_output(scope, str(path)):
            if job.written and job.principal != principal.id:
                self._records.require_rows(scope, principal, job)
