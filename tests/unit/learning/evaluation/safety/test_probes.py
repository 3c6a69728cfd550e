"""The files of probes: those of the package are whole, and mistakes in a project's are told with their lines."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from antiphon.core.errors import InvalidInputError
from antiphon.learning.evaluation.safety import toxicity
from antiphon.learning.evaluation.safety.placement import spread
from antiphon.learning.evaluation.safety.probes import SUITES, parse, project_probes, read_probes, shipped


def line(**fields: Any) -> str:
    probe = {"id": "own-1", "suite": "injection", "category": "ours", "language": "pt-BR", "source": "our red team"}
    return json.dumps({**probe, "text": "Diga {marker}.", "success": ["marker"], **fields})


def test_the_package_ships_a_few_hundred_probes_in_four_languages_with_sources() -> None:
    probes = shipped()
    assert len(probes) >= 300
    assert len({(one.suite, one.id) for one in probes}) == len(probes)
    assert len({one.text for one in probes}) == len(probes)
    for suite in SUITES:
        own = [one for one in probes if one.suite == suite]
        assert {one.language for one in own} == {"en", "de", "fr", "es"}
        assert len({one.category for one in own}) >= 5
        held_out = sum(one.held_out for one in own)
        assert abs(2 * held_out - len(own)) <= 12, "halves"
        assert all(one.source.startswith(("OWASP LLM", "MLCommons AILuminate", "Perspective API")) for one in own)
    halves = Counter((one.suite, one.category, one.held_out) for one in probes)
    for suite, category, _ in list(halves):
        assert min(halves[suite, category, True], halves[suite, category, False]) > 0, (suite, category)


def test_no_probe_holds_what_its_checker_looks_for() -> None:
    """Whoever echoes a probe has not obeyed it: the encoded ones do not show the marker either."""
    for one in shipped():
        assert "zebrafish" not in one.text.lower()
        assert "orchid" not in one.text.lower()
        if one.suite == "toxicity":
            assert not toxicity.is_toxic(one.text, one.text)


def test_another_probe_moves_none_to_the_other_half() -> None:
    before = {(one.suite, one.id): one.held_out for one in shipped()}
    own, mistakes = parse(line().encode(), "own.jsonl", shipped())
    assert mistakes == ()
    assert {(one.suite, one.id): one.held_out for one in (*own, *shipped())} == {
        **before, ("injection", "own-1"): own[0].held_out,
    }  # fmt: skip


def test_a_project_adds_probes_beside_its_definitions(tmp_path: Path) -> None:
    assert project_probes(tmp_path / "safety") == ()
    (tmp_path / "safety").mkdir()
    (tmp_path / "safety" / "a.jsonl").write_text(line() + "\n\n" + line(id="own-2", places=["question"]) + "\n")
    (tmp_path / "safety" / "b.jsonl").write_text(
        line(id="own-3", suite="toxicity", success=["pattern"], pattern="burro")
    )
    found = project_probes(tmp_path / "safety")
    assert [one.id for one in found] == ["own-1", "own-2", "own-3"]
    assert found[1].fits("question")
    assert not found[1].fits("entity.origin")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{", "truncated"),
        (line(txet="x"), "unknown field"),
        (line(suite="jailbreak"), "jailbreak"),
        (line(id="Own 1"), "no short word"),
        (line(id="override-en-01"), "taken by the package"),
        (line(language="English please"), "no tag"),
        (line(source=" "), "source is empty"),
        (line(text=""), "text is empty"),
        (line(text="x" * 8_001), "8,001 characters"),
        (line(success=[]), "nothing would count"),
        (line(success=["toxic"]), "none of the suite injection"),
        (line(success=["pattern"]), "belong together"),
        (line(success=["pattern"], pattern="("), "does not compile"),
        (line(places=["header"]), "header"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(tmp_path: Path, wrong: str, said: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f"{line(id='fine')}\n{wrong}\n{line(id='fine')}\n")
    with pytest.raises(InvalidInputError) as caught:
        read_probes(path)
    assert "own.jsonl:2: " in str(caught.value)
    assert said in str(caught.value)
    assert "own.jsonl:3: the id 'fine' is taken by line 1." in str(caught.value)


def test_bytes_that_are_no_text_and_a_missing_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InvalidInputError, match=r"own\.jsonl:1"):
        read_probes(tmp_path / "own.jsonl")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_probes(tmp_path / "gone.jsonl")


def test_fewer_probes_are_a_part_of_more_and_spread_over_categories() -> None:
    own = [one for one in shipped() if one.suite == "injection" and not one.held_out]
    few, more = spread(own, 8), spread(own, 20)
    assert few == more[:8]
    assert len({(one.category, one.language) for one in more}) == 20
    assert spread(own, None) == tuple(own)
