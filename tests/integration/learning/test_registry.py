"""Cards and comparisons over a real catalog, and the commands that show them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from tests.harness.small_desk import SCOPE, START
from tests.integration.learning.evaluated_desk import EvaluatedDesk, backwards, forecasting
from typer.testing import CliRunner

from antiphon.catalog.learning.models import ModelVersion
from antiphon.catalog.releases.releases import Release
from antiphon.cli import models as commands
from antiphon.core.errors import NotFoundError
from antiphon.engine.api.messages import GenerationRequest
from antiphon.learning.registry import card as cards
from antiphon.learning.registry.models import ModelRegistry
from antiphon.testing.scripted_engine import MODEL, ScriptedEngine, ScriptedGeneration


def served(version: str) -> str:
    return f"{SCOPE.tenant}/{version}"


def by_model(request: GenerationRequest) -> ScriptedGeneration:
    """Version 1 has its forecasts turned round, every other model not."""
    return backwards(request) if request.model == served("desk.v1") else forecasting(request)


class Trained:
    """A desk with two versions, a release of each, both evaluated on one dataset."""

    def __init__(self, folder: Path) -> None:
        names = ("scripted", served("desk.v1"), served("desk.v2"))
        models = tuple(msgspec.structs.replace(MODEL, name=name) for name in names)
        self.desk = EvaluatedDesk(folder, ScriptedEngine(by_model, models))
        past = {"first": START - timedelta(days=9), "last": START - timedelta(days=2), "kind": "training"}
        self.versions: list[ModelVersion] = []
        self.releases: list[Release] = []
        for number in (1, 2):
            version = self.desk.trained(self.desk.keep(20, **past), b"weights %d" % number, number)
            self.versions.append(version)
            self.releases.append(self.desk.pinning(version))
        self.registry = ModelRegistry(self.desk.database)

    async def evaluate(self) -> None:
        live = self.desk.release.id
        for release, attacked in zip(self.releases, (True, False), strict=True):
            await self.desk.evaluator.evaluate(release, self.desk.dataset, against=live, with_safety=attacked)
            self.desk.clock.advance(timedelta(minutes=1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """For tests that only read."""
    made = Trained(tmp_path_factory.mktemp("trained"))
    asyncio.run(made.evaluate())
    yield made
    made.desk.close()


@pytest.fixture
async def changed(tmp_path: Path) -> AsyncIterator[Trained]:
    """For a test that changes the catalog."""
    made = Trained(tmp_path)
    await made.evaluate()
    yield made
    made.desk.close()


class Page(HTMLParser):
    """What a reader of the page meets: tags, and what is wrong with their nesting."""

    VOID = frozenset(("meta", "br", "hr", "link", "img", "line", "path", "polyline"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def count(self, tag: str) -> int:
        return sum(one == tag for one, _ in self.seen)


def test_a_card_says_what_the_catalog_has(trained: Trained) -> None:
    card = trained.registry.card(SCOPE, "desk.v2")
    assert card.version == trained.versions[1]
    assert [line.id for line in card.releases] == [trained.releases[1].id]
    assert {(line.id, line.use) for line in card.datasets} == {
        (trained.versions[1].dataset, "training"),
        (trained.desk.dataset.id, "evaluation"),
    }
    assert card.evaluation == trained.desk.evaluations.latest(SCOPE, trained.releases[1].id)
    assert card.outcome is not None
    assert (card.outcome.name, card.outcome.positive) == ("outlook", "delayed")
    assert any("40 rows" in limit for limit in card.limits)
    assert msgspec.json.decode(msgspec.json.encode(card), type=cards.ModelCard) == card
    base = trained.registry.card(SCOPE, trained.desk.release.id)
    assert (base.name, base.version) == ("scripted, release 1", None)
    with pytest.raises(NotFoundError):
        trained.registry.card(SCOPE, "desk.v9")


def test_the_page_stands_by_itself_and_reads_aloud(trained: Trained) -> None:
    card = trained.registry.card(SCOPE, "desk.v1")
    text = cards.as_html(card)
    page = Page(text)
    assert (page.wrong, page.open) == ([], [])
    assert page.count("script") == 0
    assert not re.findall(r'(?:src|href)="(?!#)', text), "it loads nothing"
    assert page.count("table") == page.count("caption") > 5
    assert all("scope" in attrs for tag, attrs in page.seen if tag == "th")
    assert page.count("h1") == 1
    assert ("html", {"lang": "en"}) in page.seen
    assert all(attrs.get("role") == "img" and attrs.get("aria-labelledby") for tag, attrs in page.seen if tag == "svg")
    labelled = [str(attrs["aria-labelledby"]).split() for _, attrs in page.seen if "aria-labelledby" in attrs]
    ids = [attrs["id"] for _, attrs in page.seen if "id" in attrs]
    assert {name for names in labelled for name in names} <= set(ids)
    assert len(ids) == len(set(ids))
    assert "prefers-color-scheme: dark" in text
    assert card.evaluation is not None
    for shown in (
        f"{card.evaluation.metrics['brier'].value:.4f}", card.version.identity if card.version else "", "AUC",
        "data_1", "Reliability", trained.versions[0].weights.sha256,
    ):  # fmt: skip
        assert shown in text
    assert page.count("circle") == len(card.evaluation.reliability)


async def test_what_others_wrote_is_no_markup(changed: Trained) -> None:
    version = msgspec.structs.replace(
        changed.versions[0], id="desk.v3", number=3, identity="x", base="<script>alert(1)</script>"
    )
    changed.desk.models.add(version)
    text = cards.as_html(changed.registry.card(SCOPE, "desk.v3"))
    assert "<script>" not in text
    assert "It was not evaluated" in text
    assert Page(text).wrong == []


def test_the_card_may_be_served_under_a_strict_policy(trained: Trained) -> None:
    policy = cards.content_security_policy()
    written = re.findall(r"<style>(.*?)</style>", cards.as_html(trained.registry.card(SCOPE, "desk.v1")), re.DOTALL)
    assert [base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy for style in written] == [True]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def contrast(first: str, second: str) -> float:
    """Ratio of relative luminances (WCAG 2.2, 1.4.3)."""

    def luminance(color: str) -> float:
        digits = color.lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_contrast_in_light_and_dark() -> None:
    style = cards._style()
    for block in re.findall(r":root \{(.*?)\}", style):
        colors = dict(re.findall(r"--(\w+): (#[0-9a-f]+)", block))
        for ink in ("ink", "soft", "blue", "good", "bad"):
            for paper in ("paper", "card"):
                assert contrast(colors[ink], colors[paper]) >= 4.5, (ink, paper)


def test_two_versions_are_compared_on_identical_rows(trained: Trained) -> None:
    found = trained.registry.compare(SCOPE, "desk.v1", "desk.v2")
    assert {line.field: (line.first, line.second) for line in found.recipe} == {"steps": (100, 200)}
    lineage = {line.field for line in found.lineage}
    assert {"parent", "weights_sha256", "dataset", "model"} <= lineage
    assert "base" not in lineage
    assert (found.dataset, found.paired_rows, found.note) == (trained.desk.dataset.id, 40, "")
    assert found.paired["auc"].low > 0
    assert found.paired["brier"].high < 0
    turned = trained.registry.compare(SCOPE, "desk.v2", "desk.v1")
    assert turned.paired["auc"].value == pytest.approx(-found.paired["auc"].value)
    same = trained.registry.compare(SCOPE, "desk.v1", "desk.v1")
    assert (same.recipe, same.lineage) == ((), ())
    with_base = trained.registry.compare(SCOPE, trained.desk.release.id, "desk.v2")
    assert with_base.paired["brier"].value == 0.0


async def test_what_was_never_evaluated_together_is_said(tmp_path: Path) -> None:
    trained = Trained(tmp_path)
    found = trained.registry.compare(SCOPE, "desk.v1", "desk.v2")
    assert (found.dataset, found.paired) == (None, {})
    assert "never evaluated on one dataset" in found.note
    trained.desk.close()


async def test_commands_show_versions(changed: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from contextlib import contextmanager

    class Store:
        database, scope = changed.desk.database, SCOPE

    @contextmanager
    def stores(root: Path) -> Iterator[Store]:
        yield Store()

    monkeypatch.setattr(commands, "stores", stores)
    run = CliRunner()

    def said(*arguments: str) -> str:
        result = run.invoke(commands.app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    listed = json.loads(said("list", "desk", "--json"))
    assert [line["version"]["id"] for line in listed["versions"]] == ["desk.v2", "desk.v1"]
    assert [line["model"] for line in listed["base"]] != []
    assert json.loads(said("alias", "desk.v2", "champion", "--reason", "best", "--json"))["model"] == "desk.v2"
    text = said("list", "desk")
    assert "desk.v2" in text
    assert "champion" in text
    text = said("show", "desk:champion")
    assert "desk.v2" in text
    assert "brier_behind_live" in text
    assert json.loads(said("show", "desk:champion", "--json"))["name"] == "desk.v2"
    page = tmp_path / "card.html"
    assert said("card", "desk.v1", "-o", str(page)).strip() == str(page)
    assert page.read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.glob(".card-*")] == []
    text = said("compare", "desk.v1", "desk.v2")
    assert "by pairs" in text
    assert "40 identical rows" in text
    assert json.loads(said("compare", "desk.v1", "desk.v2", "--json"))["paired_rows"] == 40
    assert isinstance(run.invoke(commands.app, ["show", "desk:nobody"]).exception, NotFoundError)
