"""DuckDB within its limits: where it spills to, and that nothing of it stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.core.errors import UnavailableError
from antiphon.features.offline.compute import SPOOL, ComputeLimits, compute, one_row

LARGE = "SELECT count(*) FROM (SELECT DISTINCT md5(CAST(i AS VARCHAR)) AS h FROM range(400000) AS r(i))"


def test_a_computation_spills_into_a_folder_of_its_own_that_goes_with_it(tmp_path: Path) -> None:
    scratch = tmp_path / "lake" / ".scratch"
    limits = ComputeLimits(memory=24, scratch=str(scratch))
    with compute(limits) as one, compute(limits) as other:
        folders = {str(one_row(each, "SELECT current_setting('temp_directory')")[0]) for each in (one, other)}
        assert {str(Path(folder).parent) for folder in folders} == {str(scratch)}
        assert len(folders) == 2, "two computations must not share one"
        assert one_row(one, LARGE) == (400_000,)
    assert list(scratch.iterdir()) == []


def test_without_a_folder_nothing_reaches_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError, match="out of memory"), compute(ComputeLimits(memory=24)) as connection:
        one_row(connection, LARGE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_given_stays_but_for_objects(tmp_path: Path) -> None:
    (tmp_path / SPOOL).mkdir()
    with compute(ComputeLimits(spill=str(tmp_path))):
        pass
    assert not (tmp_path / SPOOL).exists()
    assert tmp_path.exists()
