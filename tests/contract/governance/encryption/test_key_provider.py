"""One suite for every key provider: what wraps data keys must do all of this."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.contract.governance.encryption.key_service import KeyService, key_service

from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    SetupError,
    UnavailableError,
)
from antiphon.core.settings_governance import EncryptionSettings
from antiphon.governance.encryption import keyring
from antiphon.governance.encryption.key_provider import EnvironmentKeys, KeyProvider, WrappedKey
from antiphon.governance.encryption.keyring import FileKeyring
from antiphon.governance.encryption.kms import KmsKeys
from antiphon.governance.encryption.protection import provider_of

PASSPHRASE = "four random words here"
KEY, CONTEXT = bytes(range(32)), b"antiphon data key\0payload\0acme\0prod\0key_1"


class Kept:
    """A provider, how a new process opens it, how its owner rotates, and how it loses its keys."""

    def __init__(
        self, again: Callable[[], KeyProvider], rotated: Callable[[], KeyProvider], lost: Callable[[], KeyProvider]
    ) -> None:
        self.provider = again()
        self.again, self.rotated, self.lost = again, rotated, lost


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "N", 2**10)


@pytest.fixture
def service() -> Iterator[KeyService]:
    with key_service() as running:
        yield running


@pytest.fixture(params=["file", "environment", "kms"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    if request.param == "file":
        path, other = tmp_path / "keyring.json", tmp_path / "other.json"
        keyring.create(path, PASSPHRASE)
        keyring.create(other, PASSPHRASE)

        def rotated() -> KeyProvider:
            FileKeyring(path, PASSPHRASE).rotate()
            return FileKeyring(path, PASSPHRASE)

        return Kept(lambda: FileKeyring(path, PASSPHRASE), rotated, lambda: FileKeyring(other, PASSPHRASE))
    if request.param == "environment":
        first, second, other_key = (base64.b64encode(os.urandom(32)).decode() for _ in range(3))
        return Kept(
            lambda: EnvironmentKeys(first, "KEK"),
            lambda: EnvironmentKeys(f"{second},{first}", "KEK"),
            lambda: EnvironmentKeys(other_key, "KEK"),
        )
    service: KeyService = request.getfixturevalue("service")

    def client() -> KeyProvider:
        return KmsKeys(service.url, "token", pause=lambda _: None)

    def rotated_service() -> KeyProvider:
        service.answer("/rotate", "Bearer token", {})
        return client()

    def lost() -> KeyProvider:
        service.keys = {"kms-9": os.urandom(32)}
        service.current = "kms-9"
        return client()

    return Kept(client, rotated_service, lost)


def test_a_wrapped_key_is_unwrapped_by_any_process_and_does_not_show(kept: Kept) -> None:
    wrapped = kept.provider.wrap(KEY, CONTEXT)
    assert KEY not in wrapped.content
    assert wrapped.wrapping_key == kept.provider.current()
    assert kept.again().unwrap(wrapped, CONTEXT) == KEY
    assert kept.provider.wrap(KEY, CONTEXT).content != wrapped.content


def test_a_wrapped_key_is_bound_to_its_context_and_bytes(kept: Kept) -> None:
    wrapped = kept.provider.wrap(KEY, CONTEXT)
    with pytest.raises(CorruptionError, match=wrapped.wrapping_key):
        kept.provider.unwrap(wrapped, CONTEXT.replace(b"acme", b"evil"))
    changed = bytearray(wrapped.content)
    changed[len(changed) // 2] = ord("A") if changed[len(changed) // 2] != ord("A") else ord("B")
    with pytest.raises(CorruptionError):
        kept.provider.unwrap(WrappedKey(wrapped.wrapping_key, bytes(changed)), CONTEXT)


def test_after_a_rotation_old_keys_unwrap_and_new_ones_are_under_the_new_key(kept: Kept) -> None:
    old = kept.provider.wrap(KEY, CONTEXT)
    provider = kept.rotated()
    assert provider.current() != old.wrapping_key
    assert provider.unwrap(old, CONTEXT) == KEY
    new = provider.wrap(KEY, CONTEXT)
    assert (new.wrapping_key, provider.unwrap(new, CONTEXT)) == (provider.current(), KEY)


def test_a_lost_wrapping_key_is_named_with_what_to_do(kept: Kept) -> None:
    wrapped = kept.provider.wrap(KEY, CONTEXT)
    with pytest.raises(SetupError, match=wrapped.wrapping_key) as refused:
        kept.lost().unwrap(wrapped, CONTEXT)
    assert refused.value.next_step


def test_a_keyring_finds_the_key_that_another_process_made(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    keyring.create(path, PASSPHRASE)
    here, there = FileKeyring(path, PASSPHRASE), FileKeyring(path, PASSPHRASE)
    here.current()
    made = there.rotate()
    assert here.current() == made
    assert here.unwrap(there.wrap(KEY, CONTEXT), CONTEXT) == KEY
    first = next(kept.id for kept in msgspec.json.decode(path.read_bytes(), type=keyring.KeyringFile).keys)
    there.retire(first)
    there.retire(made)
    assert [kept.id for kept in msgspec.json.decode(path.read_bytes(), type=keyring.KeyringFile).keys] == [made]


def test_a_keyring_is_its_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "keyring.json"
    keyring.create(path, PASSPHRASE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSPHRASE.encode() not in path.read_bytes()
    with pytest.raises(ConflictError):
        keyring.create(path, PASSPHRASE)
    path.chmod(0o640)
    with pytest.raises(SetupError, match="Others may read"):
        FileKeyring(path, PASSPHRASE).current()


def test_a_wrong_passphrase_and_a_damaged_or_missing_keyring_are_told_apart_from_success(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    made = keyring.create(path, PASSPHRASE)
    with pytest.raises(SetupError, match=f"does not open the keyring's key {made}"):
        FileKeyring(path, "another passphrase").current()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SetupError, match="damaged"):
        FileKeyring(path, PASSPHRASE).current()
    path.unlink()
    with pytest.raises(SetupError, match="cannot be read"):
        FileKeyring(path, PASSPHRASE).current()
    with pytest.raises(SetupError, match="at least 12"):
        keyring.create(path, "short")


def test_a_key_service_that_is_away_for_a_moment_is_asked_again(service: KeyService) -> None:
    waited: list[float] = []
    provider = KmsKeys(service.url, "token", pause=waited.append)
    service.failing = 2
    assert provider.unwrap(provider.wrap(KEY, CONTEXT), CONTEXT) == KEY
    assert len(waited) == 2
    service.failing = 100
    with pytest.raises(UnavailableError, match="does not answer"):
        provider.wrap(KEY, CONTEXT)
    assert len(service.requests) == 4 + 3


def test_a_rotation_is_not_sent_twice(service: KeyService) -> None:
    provider = KmsKeys(service.url, "token", pause=lambda _: None)
    service.failing = 1
    with pytest.raises(UnavailableError):
        provider.rotate()
    assert service.requests == ["/rotate"]
    assert provider.rotate() == "kms-2" == provider.current()


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda url: KmsKeys(url, "wrong").wrap(KEY, CONTEXT), SetupError, "refuses this project's token"),
        (lambda _: KmsKeys("http://keys.example", "t"), InvalidInputError, "https"),
        (lambda _: KmsKeys("file:///etc/passwd", "t"), InvalidInputError, "https"),
        (lambda _: EnvironmentKeys("dG9vIHNob3J0", "KEK"), SetupError, "does not hold 32 bytes"),
        (lambda _: EnvironmentKeys("no base64 !", "KEK"), SetupError, "does not hold 32 bytes"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(
    service: KeyService, make: Callable[[str], object], error: type[AntiphonError], said: str
) -> None:
    with pytest.raises(error, match=said):
        make(service.url)


def test_the_settings_choose_the_provider(tmp_path: Path, service: KeyService) -> None:
    keyring.create(tmp_path / "ring.json", PASSPHRASE)
    key = base64.b64encode(bytes(32)).decode()
    settings = EncryptionSettings(mode="encrypted", keyring="ring.json", secret="S", url=service.url)
    for name, value in (("file", PASSPHRASE), ("environment", key), ("kms", "token")):
        wanted = msgspec.structs.replace(settings, provider=name)
        assert provider_of(wanted, tmp_path, {"S": value}).name == name
        with pytest.raises(SetupError, match="variable S is not set"):
            provider_of(wanted, tmp_path, {})
    with pytest.raises(InvalidInputError, match="needs its URL"):
        provider_of(msgspec.structs.replace(settings, provider="kms", url=None), tmp_path, {"S": "t"})
