"""Settings files are changed in the asked fields and in no other."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from antiphon.core.errors import InvalidInputError
from antiphon.services.moving.settings_file import EMBEDDED, edited, replace

TEXT = """# A plant.
[project]
name = "pumps"

[features]  # beside the folder
lake_access_key_variable = "K"  # of the bucket
lake = "s3://old/lake"

[engine]
kind = "simulated"
"""


def test_only_the_named_fields_change_and_comments_stay() -> None:
    grown = edited(TEXT, {"lake": 's3://new/"lake"', "catalog": "postgresql://u@h/d", "log": "nats://h:4222"})
    found = tomllib.loads(grown)
    assert found["features"] == {
        "lake": 's3://new/"lake"', "log": "nats://h:4222", "lake_access_key_variable": "K",
    }  # fmt: skip
    assert found["catalog"] == {"url": "postgresql://u@h/d"}
    for comment in ("# A plant.", "# beside the folder", "# of the bucket"):
        assert comment in grown
    back = edited(grown, {"lake": "s3://old/lake", "catalog": EMBEDDED, "log": EMBEDDED})
    assert tomllib.loads(back) == tomllib.loads(TEXT)
    assert "[catalog]" not in back
    assert edited(TEXT, {"online": EMBEDDED}) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        'features = {lake = "s3://old/lake"}\n',
        '[features]\n"lake" = "s3://old/lake"\n',
        'features.lake = "s3://old/lake"\n',
        '[features]\nsnapshots_kept = """\nlake = 1\n"""\n',
    ],
)
def test_a_text_that_a_program_cannot_change_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be changed by a program") as refused:
        edited(text, {"lake": "s3://new/lake"})
    assert "--to FILE.toml" in str(refused.value.next_step)


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    file = tmp_path / "antiphon.toml"
    file.write_text(TEXT)
    replace(tmp_path, "[project]\n")
    assert file.read_text() == "[project]\n"
    before = file.stat().st_ino
    replace(tmp_path, "[project]\n")
    assert file.stat().st_ino == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["antiphon.toml"]
