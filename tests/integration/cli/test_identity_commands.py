"""``antiphon keys``, ``antiphon principals`` and ``antiphon tenants`` over one project, in process."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from antiphon.cli import keys, principals, tenants
from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
)
from antiphon.core.scope import Scope
from antiphon.services.project.store import Store


class Terminal:
    """Runs commands of these nouns."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._app = typer.Typer()
        self._app.add_typer(keys.app)
        self._app.add_typer(principals.app)
        self._app.add_typer(tenants.app)

    def __call__(self, *arguments: str) -> str:
        done = CliRunner().invoke(self._app, [*arguments, "--project", str(self.root)])
        if isinstance(done.exception, AntiphonError):
            raise done.exception
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    (tmp_path / "antiphon.toml").write_text('[project]\nname = "p"\n[engine]\nkind = "simulated"\n')
    return Terminal(tmp_path)


def test_a_key_is_made_for_something_shown_rotated_and_revoked(terminal: Terminal) -> None:
    made = terminal.json(
        "keys", "create", "bot", "--actions", "answer, originate", "--for", "application/desk", "--expires-in", "90d"
    )
    first = made["record"]["id"]
    assert made["record"]["limits"] == {"actions": ["answer", "originate"], "resources": ["application/desk"]}
    shown = terminal("keys", "show", first)
    for told in ("bot (service, service", "answer, originate", "application/desk", "valid"):
        assert told in shown
    assert made["key"] not in shown
    rotated = terminal.json("keys", "rotate", "bot", "--overlap", "30m")
    assert rotated["replaced"]["id"] == first
    assert "replaced" in terminal("keys", "list")
    store = Store.open(terminal.root)
    assert {store.keys.authenticate(text).id for text in (made["key"], rotated["key"])} == {"bot"}
    store.close()
    assert "is revoked" in terminal("keys", "revoke", first)
    store = Store.open(terminal.root)
    with pytest.raises(UnauthenticatedError, match="revoked"):
        store.keys.authenticate(made["key"])
    acts = [entry.action for entry in store.audit.query(store.scope)]
    assert acts[:3] == ["key.revoke", "key.rotate", "key.create"]
    store.close()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("keys", "create", "bot", "--actions", "dance"), InvalidInputError),
        (("keys", "create", "bot", "--for", "desk"), InvalidInputError),
        (("keys", "create", "bot", "--expires-in", "soon"), InvalidInputError),
        (("keys", "rotate", "nobody"), NotFoundError),
        (("keys", "rotate", "nobody", "--overlap", "400d"), InvalidInputError),
        (("keys", "show", "key_none"), NotFoundError),
        (("principals", "create", "a b"), InvalidInputError),
        (("principals", "create", "ann", "--role", "king"), InvalidInputError),
        (("principals", "create", "ann", "--clearance", "cosmic"), InvalidInputError),
        (("principals", "set", "nobody", "--role", "viewer"), NotFoundError),
        (("principals", "disable", "nobody", "--reason", "r"), NotFoundError),
    ],
)
def test_what_is_wrong_is_said(terminal: Terminal, arguments: tuple[str, ...], error: type[AntiphonError]) -> None:
    with pytest.raises(error) as refused:
        terminal(*arguments)
    assert not isinstance(refused.value, ForbiddenError)
    assert refused.value.next_step


def test_a_principal_is_made_changed_disabled_and_enabled(terminal: Terminal) -> None:
    made = terminal.json("principals", "create", "ann", "--role", "engineer", "--person", "--clearance", "restricted")
    assert (made["role"], made["kind"], made["clearance"]) == ("engineer", "person", "restricted")
    with pytest.raises(ConflictError):
        terminal("principals", "create", "ann")
    key = terminal.json("keys", "create", "ann", "--role", "engineer")["key"]
    assert "role viewer" in terminal("principals", "set", "ann", "--role", "viewer", "--reason", "moved on")
    terminal("principals", "disable", "ann", "--reason", "left")
    assert "disabled" in terminal("principals", "list")
    store = Store.open(terminal.root)
    with pytest.raises(UnauthenticatedError, match="disabled"):
        store.keys.authenticate(key)
    store.close()
    terminal("principals", "enable", "ann", "--reason", "came back")
    store = Store.open(terminal.root)
    assert store.keys.authenticate(key).role == "viewer"
    acts = [entry.action for entry in store.audit.query(store.scope)]
    assert acts[:3] == ["principal.enable", "principal.disable", "principal.set"]
    store.close()


def test_the_clock_is_trusted_on_record(terminal: Terminal) -> None:
    terminal("keys", "create", "bot")
    told = terminal.json("keys", "trust-clock", "--reason", "it was ahead")
    assert set(told) == {"before", "now"}
    store = Store.open(terminal.root)
    assert store.audit.query(store.scope)[0].action == "clock.trust"
    store.close()


def test_a_tenant_is_made_suspended_resumed_and_deleted(terminal: Terminal) -> None:
    assert terminal.json("tenants", "create", "acme")["state"] == "active"
    why = ("--reason", "unpaid")
    assert "acme is suspended." in terminal("tenants", "suspend", "acme", *why)
    assert "unpaid" in terminal("tenants", "list")
    assert "acme is active." in terminal("tenants", "resume", "acme", *why)
    with pytest.raises(ConflictError, match="of this project"):
        terminal("tenants", "delete", "default", *why)
    with closing(Store.open(terminal.root)) as store:
        store.runs.submit(Scope("acme", "dev"), "refresh", {})
    with pytest.raises(ConflictError, match="1 runs have not ended"):
        terminal("tenants", "delete", "acme", *why)
    assert terminal.json("tenants", "delete", "acme", "--force", *why)["state"] == "deleted"
    with pytest.raises(NotFoundError, match="no tenant 'globex'"):
        terminal("tenants", "suspend", "globex", *why)
    with closing(Store.open(terminal.root)) as store:
        acts = [entry.action for entry in store.audit.query(store.scope)]
    assert sorted(acts) == ["tenant.create", "tenant.delete", "tenant.resume", "tenant.suspend"]


def test_a_tenant_has_the_share_and_the_quota_that_it_is_given(terminal: Terminal) -> None:
    made = terminal.json("tenants", "create", "acme", "--share", "2", "--quota", "requests_per_minute=60")
    assert (made["share"], made["quota"]["requests_per_minute"]) == (2.0, 60)
    why = ("--reason", "as agreed")
    assert "a share of 3; requests_per_minute=60" in terminal("tenants", "change", "acme", "--share", "3", *why)
    changed = terminal.json("tenants", "change", "acme", "--quota", "stored_bytes=1000", *why)
    assert changed["share"] == 3.0
    assert {name: bound for name, bound in changed["quota"].items() if bound} == {"stored_bytes": 1000}
    assert terminal.json("tenants", "change", "default", "--share", "0.5", *why)["share"] == 0.5
    with closing(Store.open(terminal.root)) as store:
        assert (store.tenants.share("acme"), store.tenants.share("default"), store.tenants.share("new")) == (3, 0.5, 1)
        assert store.tenants.stored_bytes("acme") == 1000
        assert store.audit.query(store.scope)[0].detail["share"] == 0.5
    assert "stored_bytes=1000" in terminal("tenants", "list")
    assert "no quota" in terminal("tenants", "change", "acme", "--no-quota", *why)
    for wrong, said in (
        (("--share", "0"), "is not a share"),
        (("--share", "nan"), "is not a share"),
        (("--quota", "requests=5"), "is no quota"),
        (("--quota", "stored_bytes=0"), "is not a quota"),
        (("--quota", "stored_bytes"), "is not NAME=BOUND"),
        ((), "Nothing is to change"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            terminal("tenants", "change", "acme", *wrong, *why)
    with pytest.raises(NotFoundError):
        terminal("tenants", "change", "globex", "--share", "2", *why)
    assert "acme is suspended." in terminal("tenants", "suspend", "acme", *why)
    assert terminal.json("tenants", "list")[0]["share"] == 3.0, "another state keeps its share"


def test_a_deleted_tenant_is_erased(terminal: Terminal) -> None:
    why = ("--reason", "asked to")
    terminal("tenants", "create", "acme")
    with closing(Store.open(terminal.root)) as store:
        store.keys.create("acme", "bot", "service")
    with pytest.raises(ConflictError, match="only what a deleted one stored is erased"):
        terminal("tenants", "erase", "acme", *why)
    terminal("tenants", "delete", "acme", *why)
    assert "would be removed" in terminal("tenants", "erase", "acme", "--dry-run", *why)
    assert terminal.json("tenants", "erase", "acme", *why)["removed"]["rows of principals"] == 1
    assert "Nothing is left of it." in terminal("tenants", "erase", "acme", *why)
    assert "erased" in terminal("tenants", "list")
