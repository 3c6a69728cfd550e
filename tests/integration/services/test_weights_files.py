"""Weights that travel through the lake: fetched whole or not at all, and kept from being pruned."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.integration.services.test_served_models import model_version
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.disk import LEAST_FREE
from antiphon.core.errors import AntiphonError, CorruptionError, SetupError, StorageFullError
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import ServedModel
from antiphon.features.lake.local import LocalLake
from antiphon.governance.encryption.sealing import AesGcmCodec
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.learning.weights_files import WeightsFiles, weights_path
from antiphon.services.project.store import Store

HERE = Scope("default", "dev")
CONTENT = b"GGUF" + os.urandom(3 * 2**20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Hosts:
    """A worker's host, on which a model was trained, an engine's host, and the lake between them."""

    def __init__(self, folder: Path, codec: Codec) -> None:
        self.lake = LocalLake(folder / "lake", codec)
        self.trained = folder / "worker" / "desk.v1.gguf"
        self.trained.parent.mkdir()
        self.trained.write_bytes(CONTENT)
        self.cache = folder / "engine" / "fetched"
        self.worker = WeightsFiles(self.lake, HERE.environment, folder / "worker" / "fetched")
        self.engine = WeightsFiles(self.lake, HERE.environment, self.cache)
        self.model = ServedModel("default/desk.v1", str(self.trained), SHA256)
        self.far = ServedModel("default/desk.v1", "/nowhere/desk.v1.gguf", SHA256)

    @property
    def stored(self) -> Path:
        return next(self.lake._root.rglob("*.gguf"))

    @property
    def cached(self) -> list[str]:
        return sorted(path.name for path in self.cache.glob("*.gguf*"))


@pytest.fixture(params=["plain", "sealed"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Hosts:
    return Hosts(tmp_path, PlainCodec() if request.param == "plain" else AesGcmCodec(Keys()))


def test_an_engine_finds_by_hash_what_the_worker_has_published(hosts: Hosts) -> None:
    hosts.worker.publish(hosts.model)
    found = hosts.engine.locate(hosts.far)
    assert (found.name, found.sha256) == ("default/desk.v1", SHA256)
    assert Path(found.path).read_bytes() == CONTENT
    assert hosts.engine.locate(hosts.model) == hosts.model, "what is there is not fetched"
    hosts.lake.remove(weights_path(HERE, SHA256))
    assert hosts.engine.locate(hosts.far) == found, "it is fetched once"


def test_weights_of_another_tenant_come_from_its_part_of_the_lake_and_go_when_they_are_needed_no_more(
    hosts: Hosts,
) -> None:
    other = msgspec.structs.replace(hosts.model, name="acme/desk.v1")
    hosts.worker.publish(other)
    assert hosts.lake.has(weights_path(Scope("acme", "dev"), SHA256))
    with pytest.raises(CorruptionError, match="has no file"):
        hosts.engine.locate(hosts.far)
    found = hosts.engine.locate(msgspec.structs.replace(hosts.far, name="acme/desk.v1"))
    assert Path(found.path).read_bytes() == CONTENT
    hosts.engine.prune({SHA256})
    assert hosts.cached == [f"{SHA256}.gguf"]
    hosts.engine.prune(set())
    assert hosts.cached == []


def test_a_copy_that_was_damaged_is_fetched_again(hosts: Hosts) -> None:
    hosts.worker.publish(hosts.model)
    found = Path(hosts.engine.locate(hosts.far).path)
    found.write_bytes(CONTENT[:-1])
    assert Path(hosts.engine.locate(hosts.far).path).read_bytes() == CONTENT


def test_what_a_killed_process_left_is_begun_anew(hosts: Hosts) -> None:
    hosts.worker.publish(hosts.model)
    hosts.cache.mkdir(parents=True)
    (hosts.cache / f"{SHA256}.gguf.partial").write_bytes(CONTENT[:1000])
    assert Path(hosts.engine.locate(hosts.far).path).read_bytes() == CONTENT
    assert hosts.cached == [f"{SHA256}.gguf"]


def _lose(hosts: Hosts) -> None:
    hosts.lake.remove(weights_path(HERE, SHA256))


def _damage(hosts: Hosts) -> None:
    content = bytearray(hosts.stored.read_bytes())
    content[len(content) // 2] ^= 1
    hosts.stored.write_bytes(content)


@pytest.mark.parametrize(("harm", "said"), [(_lose, "has no file"), (_damage, "cannot be had|changed|damaged")])
def test_weights_that_the_lake_has_lost_name_the_next_step(
    hosts: Hosts, harm: Callable[[Hosts], None], said: str
) -> None:
    hosts.worker.publish(hosts.model)
    harm(hosts)
    with pytest.raises(CorruptionError, match=said) as lost:
        hosts.engine.locate(hosts.far)
    assert "antiphon models rebuild desk.v1" in str(lost.value.next_step)
    assert hosts.cached == []


def test_a_full_disk_is_noticed_before_anything_is_written(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.worker.publish(hosts.model)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1 << 40, 0, LEAST_FREE + len(CONTENT) - 1))
    with pytest.raises(StorageFullError, match="no room for the weights"):
        hosts.engine.locate(hosts.far)
    assert hosts.cached == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1 << 40, 0, LEAST_FREE + len(CONTENT)))
    assert hosts.engine.locate(hosts.far)


@pytest.mark.parametrize(
    ("content", "error"), [(None, SetupError), (CONTENT[:-1], CorruptionError)], ids=["gone", "changed"]
)
def test_what_is_not_what_was_registered_is_not_published(
    hosts: Hosts, content: bytes | None, error: type[AntiphonError]
) -> None:
    if content is None:
        hosts.trained.unlink()
    else:
        hosts.trained.write_bytes(content)
    with pytest.raises(error) as refused:
        hosts.worker.publish(hosts.model)
    assert "antiphon models rebuild desk.v1" in str(refused.value.next_step)
    assert not list(hosts.lake.files(HERE))


def test_weights_of_registered_models_are_not_pruned(tmp_path: Path) -> None:
    (tmp_path / "antiphon.toml").write_text("")
    (tmp_path / "definitions.py").write_text("")
    store = Store.open(tmp_path)
    try:
        platform = FeaturePlatform(store)
        registered = store.models.add(model_version("desk.v1", "desk", 1))
        assert weights_path(store.scope, registered.weights.sha256) in platform._also_named(store.scope)
        platform.close()
    finally:
        store.close()
