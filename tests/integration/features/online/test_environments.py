"""Environments of LMDB that finalizers give back while others are opened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from antiphon.features.online.lmdb import environments


@pytest.fixture
def path(tmp_path: Path) -> Callable[[str], Path]:
    def made(name: str) -> Path:
        lmdb.open(str(tmp_path / name), subdir=False).close()
        return tmp_path / name

    return made


def test_one_is_given_back_in_the_midst_of_opening_another(
    path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector runs a finalizer wherever an object is made, so in ``acquire`` of the same thread too."""
    first, second_path = environments.acquire(path("first")), path("second")
    opened = lmdb.open

    def collecting(*arguments: object, **options: object) -> object:
        environments.release(first)
        return opened(*arguments, **options)

    monkeypatch.setattr(lmdb, "open", collecting)
    found: list[object] = []
    # A thread that may be left behind: without the defense it would wait for itself.
    opening = threading.Thread(target=lambda: found.append(environments.acquire(second_path)), daemon=True)
    opening.start()
    opening.join(10)
    assert found
    with pytest.raises(lmdb.Error):
        first.begin()
    environments.release(found[0])


def test_the_last_user_closes_it(path: Callable[[str], Path]) -> None:
    file = path("shared")
    one, other = environments.acquire(file), environments.acquire(file)
    assert one is other
    environments.release(one)
    other.begin().abort()
    environments.release(other)
    with pytest.raises(lmdb.Error):
        other.begin()


def test_one_that_was_given_back_beside_an_opening_is_opened_anew(path: Callable[[str], Path]) -> None:
    file = path("again")
    for _ in range(20):
        users = [threading.Thread(target=lambda: environments.release(environments.acquire(file))) for _ in range(8)]
        for user in users:
            user.start()
        for user in users:
            user.join()
    environment = environments.acquire(file)
    environment.begin().abort()
    environments.release(environment)
