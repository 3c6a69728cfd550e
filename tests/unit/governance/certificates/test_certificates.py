"""The local authority: what it makes, how it is replaced, and what a check says of each mistake."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from antiphon.governance.certificates.authority import CertificateSpec, init, rotate
from antiphon.governance.certificates.checks import chain, check, described, require_pair

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init(tmp_path / "tls", CertificateSpec(names=("desk.example",), days=30), NOW)
    return tmp_path / "tls"


def problems(folder: Path, host: str = "desk.example", now: datetime = NOW, **replaced: bytes) -> dict[str, str]:
    current = folder / "current"
    found = check(
        replaced.get("certificate") or (current / "server.crt").read_bytes(),
        replaced.get("key") or (current / "server.key").read_bytes(),
        [replaced.get("authority") or (current / "authority.crt").read_bytes()],
        host,
        now,
    )
    assert [finding.check for finding in found] == ["key", "dates", "name", "chain"]
    assert all(finding.next_step for finding in found if finding.problem)
    return {finding.check: finding.problem for finding in found if finding.problem}


def test_what_is_made_is_accepted_and_private(folder: Path) -> None:
    assert problems(folder) == {}
    assert problems(folder, "127.0.0.1") == {}
    current = folder / "current"
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(current.resolve().stat().st_mode) == 0o700
    for file in current.iterdir():
        # A certificate is as open as its maker's mask lets it be, a key its owner's alone.
        assert stat.S_IMODE(file.stat().st_mode) & ~(0o600 if file.suffix == ".key" else 0o644) == 0, file
    facts = described(chain((current / "client.crt").read_bytes(), "")[0])
    assert (facts.organization, facts.common_name, facts.names) == (
        "default",
        "operator",
        ("antiphon://default/operator",),
    )
    assert facts.days_left(NOW) == 30


def test_each_mistake_is_told_by_its_own_line(folder: Path, tmp_path: Path) -> None:
    other = init(tmp_path / "other", CertificateSpec(names=("desk.example",)), NOW)
    assert "another certificate" in problems(folder, key=(other / "server.key").read_bytes())["key"]
    assert "no PEM private key" in problems(folder, key=b"nothing")["key"]
    assert problems(folder, "elsewhere.example").keys() == {"name"}
    assert problems(folder, authority=(other / "authority.crt").read_bytes()).keys() == {"chain"}
    assert "expired" in problems(folder, now=NOW + timedelta(days=31))["dates"]
    assert "clock is behind" in problems(folder, now=NOW - timedelta(days=1))["dates"]
    with pytest.raises(InvalidInputError, match="no PEM certificate"):
        problems(folder, certificate=b"nothing")


def test_a_pair_is_required_to_belong_together_and_to_hold_now(folder: Path) -> None:
    certificate, key = ((folder / "current" / name).read_bytes() for name in ("server.crt", "server.key"))
    assert require_pair(certificate, key, NOW, "x").names == ("desk.example", "127.0.0.1")
    for wrong_certificate, wrong_key, now in (
        (certificate, (folder / "current" / "client.key").read_bytes(), NOW),
        (certificate, key, NOW + timedelta(days=31)),
        (certificate, key, NOW - timedelta(days=1)),
        (certificate[:100], key, NOW),
    ):
        with pytest.raises(InvalidInputError):
            require_pair(wrong_certificate, wrong_key, now, "x")


def test_a_rotation_keeps_names_and_makes_new_keys(folder: Path) -> None:
    current = folder / "current"
    before = {name: (current / name).read_bytes() for name in os.listdir(current)}
    later = NOW + timedelta(days=20)
    rotate(folder, later)
    after = {name: (current / name).read_bytes() for name in os.listdir(current)}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"server.crt", "server.key", "client.crt", "client.key"}
    facts = described(chain(after["server.crt"], "")[0])
    assert facts.names == ("desk.example", "127.0.0.1")
    assert facts.days_left(later) == 30
    assert problems(folder, now=later, authority=before["authority.crt"]) == {}


def test_a_new_authority_is_accepted_by_whoever_knows_either(folder: Path) -> None:
    old = (folder / "current" / "authority.crt").read_bytes()
    rotate(folder, NOW, authority=True)
    new = chain((folder / "current" / "authority.crt").read_bytes(), "")
    assert len(new) == 2, "both are trusted, for clients of either"
    assert problems(folder, authority=old) == {}
    rotate(folder, NOW)
    assert problems(folder, authority=old) == {}, "an ordinary rotation keeps the bridge"
    rotate(folder, NOW, authority=True)
    assert problems(folder, authority=old).keys() == {"chain"}, "two authorities later it is known no more"


def test_only_the_newest_two_sets_are_kept(folder: Path) -> None:
    for _ in range(4):
        rotate(folder, NOW)
    assert sorted(path.name for path in folder.iterdir()) == ["000004", "000005", "current", "lock"]


def test_a_rotation_that_died_before_its_end_changed_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "current" / "server.crt").read_bytes()

    def dies(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        rotate(folder, NOW)
    monkeypatch.undo()
    assert (folder / "current" / "server.crt").read_bytes() == before
    assert problems(folder) == {}
    rotate(folder, NOW)
    assert (folder / "current" / "server.crt").read_bytes() != before
    assert not (folder / "current.partial").is_symlink()


def _rotate(folder: Path, times: int) -> None:
    for _ in range(times):
        rotate(folder, NOW)


def test_a_reader_through_one_resolution_never_pairs_old_with_new(folder: Path) -> None:
    """A process rotates without pause while pairs are read, by one resolution of the link as the gateway does."""
    rotating = multiprocessing.get_context("spawn").Process(target=_rotate, args=(folder, 40))
    rotating.start()
    read = seen = 0
    last = b""
    while rotating.is_alive() and read < 100_000:
        resolved = (folder / "current").resolve()
        try:
            certificate, key = (resolved / "server.crt").read_bytes(), (resolved / "server.key").read_bytes()
        except FileNotFoundError:
            continue  # two rotations later the folder is gone: an error to try again after, never a wrong pair
        require_pair(certificate, key, NOW, "x")
        read += 1
        seen += certificate != last
        last = certificate
    rotating.join(30)
    assert rotating.exitcode == 0
    assert seen > 5, "the reader saw rotations happen"


@pytest.mark.parametrize(
    "asked",
    [
        CertificateSpec(days=0),
        CertificateSpec(days=399),
        CertificateSpec(addresses=("localhost",)),
        CertificateSpec(names=("a b",)),
        CertificateSpec(names=("b\u00fcro.example",)),
        CertificateSpec(names=(), addresses=()),
    ],
)
def test_what_cannot_be_certified_is_said(tmp_path: Path, asked: CertificateSpec) -> None:
    with pytest.raises(InvalidInputError) as raised:
        init(tmp_path / "tls", asked, NOW)
    assert raised.value.next_step
    assert not (tmp_path / "tls" / "current").exists()


def test_beginning_twice_and_rotating_nothing_or_what_is_damaged(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="already"):
        init(folder, CertificateSpec(), NOW)
    with pytest.raises(NotFoundError, match="no certificate"):
        rotate(tmp_path / "nothing", NOW)
    with pytest.raises(InvalidInputError, match="authority ends"):
        rotate(folder, NOW + timedelta(days=3640))
    shutil.copy(folder / "current" / "server.key", folder / "current" / "authority.key")
    with pytest.raises(CorruptionError, match="not the authority's"):
        rotate(folder, NOW)
