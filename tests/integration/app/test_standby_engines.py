"""Standby engines as ``antiphon.toml`` declares them: what is wrong is named before anything is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from antiphon.core.errors import InvalidInputError
from antiphon.services.apply.apply import apply
from antiphon.services.engines import clients, commands, sections
from antiphon.services.project.store import Store

DEFINITIONS = """
from antiphon import Application, Prompt

desk = Application(
    "desk", ungated="a test asks at once",
    purpose="tell", features=[], model="simulated", prompt=Prompt("Hello."), fallback=["standby/other"]
)
"""
SETTINGS = '[engine]\nkind = "simulated"\nmodels = ["simulated"]\n'
STANDBY = '[engines.standby]\nurl = "http://127.0.0.1:9/v1"\nmodels = { simulated = "there" }\n'

Open = Callable[[str], Store]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    stores: list[Store] = []

    def made(settings: str) -> Store:
        (tmp_path / "antiphon.toml").write_text(settings)
        (tmp_path / "definitions.py").write_text(DEFINITIONS)
        stores.append(Store.open(tmp_path))
        return stores[-1]

    yield made
    for store in stores:
        store.close()


def test_a_fallback_to_an_engine_that_is_not_declared_is_not_applied(opened: Open) -> None:
    with pytest.raises(InvalidInputError, match=r"'standby', which is not declared\.") as refused:
        apply(opened(SETTINGS), principal="me")
    assert (refused.value.where, refused.value.next_step) == (
        "application desk, fallback",
        "Add [engines.standby] with a url to antiphon.toml, or take it out of the fallback.",
    )


def test_a_declared_one_is_applied(opened: Open) -> None:
    store = opened(SETTINGS + STANDBY)
    (release,) = apply(store, principal="me").releases
    assert release.bundle.application.fallback == ("standby/other",)
    assert list(clients.standbys(store, "test")) == ["standby"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (SETTINGS + STANDBY.replace("standby", "main"), "'main' is not a name for an engine"),
        (SETTINGS + STANDBY.replace("standby", '"Stand by"'), "'Stand by' is not a name for an engine"),
        (SETTINGS + STANDBY + 'api_key_variable = "NOBODY_SET_THIS"\n', "NOBODY_SET_THIS is not set"),
        (SETTINGS + STANDBY.replace("http:", "file:"), "http"),
        (SETTINGS + 'fallback = ["elsewhere"]\n', "'elsewhere', which is not declared"),
    ],
)
def test_what_cannot_be_used_is_named(opened: Open, settings: str, said: str) -> None:
    store = opened(settings)

    def started() -> None:
        clients.standbys(store, "test")
        for name in sections.upstreams(store.settings):
            commands.upstream_command(store, name)

    with pytest.raises(InvalidInputError, match=said):
        started()


def test_a_misspelt_field_of_an_engine_is_refused_by_name(opened: Open) -> None:
    with pytest.raises(InvalidInputError, match="adress"):
        opened(SETTINGS + STANDBY + 'adress = "x"\n')
