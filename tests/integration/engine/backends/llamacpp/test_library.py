"""llama.cpp's shared library: of the extra, of another build, absent, or not one at all. Each in a process of its
own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from antiphon.core.errors import SetupError
from antiphon.engine.backends.llamacpp.library import VARIABLE, find_library

WITHOUT_PACKAGE = "import sys; sys.modules['llama_cpp_py_sync'] = None\n"
LOAD = "from antiphon.engine.backends.llamacpp.library import Library\nfound = Library.get()\n"


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def installed() -> Path:
    package = importlib.util.find_spec("llama_cpp_py_sync")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent


def test_a_build_elsewhere_computes_the_golden_logits_without_the_package(tmp_path: Path, model_path: Path) -> None:
    for library in installed().glob("lib*.so*"):
        shutil.copy2(library, tmp_path / library.name)
    code = (
        f"{WITHOUT_PACKAGE}{LOAD}"
        "from antiphon.engine import weights\n"
        "from antiphon.engine.backends.llamacpp.runtime import LlamaCpp\n"
        "from antiphon.engine.execution.runtime import Layout\n"
        "runtime = LlamaCpp('m', weights.resolve('smollm2-135m'), Layout(32, 1, 256), threads=1)\n"
        "print(found.path, found.digest, runtime.description.fingerprint)\n"
    )
    copied = python(code, LLAMA_CPP_LIB=str(tmp_path / "libllama.so"))
    assert copied.returncode == 0, copied.stderr
    path, *identity = copied.stdout.split()
    assert path == str(tmp_path / "libllama.so")
    package = python(code.removeprefix(WITHOUT_PACKAGE))
    assert package.stdout.split()[1:] == identity, "the same bytes are the same fingerprint"


def test_the_variable_goes_before_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert find_library() == installed() / "libllama.so"
    (other := tmp_path / "libllama.so").touch()
    monkeypatch.setenv(VARIABLE, str(other))
    assert find_library() == other


def test_a_path_without_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone.so"))
    with pytest.raises(SetupError, match=r"names no file.*antiphon\[llama\]"):
        find_library()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("text", "cannot be loaded"), ("ggml", "has no function llama_model_default_params")],
    ids=["no library", "another library"],
)
def test_what_is_not_llama_cpp_is_refused(name: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "libllama.so"
    if name == "text":
        file.write_text("not a library")
    else:
        shutil.copy2(installed() / "libggml-base.so.0", file)
    refused = python(LOAD, LLAMA_CPP_LIB=str(file))
    assert refused.returncode != 0
    assert complaint in refused.stderr
    assert "antiphon[llama]" in refused.stderr


@pytest.mark.parametrize(
    ("declared", "complaint"),
    [
        ("    uint32_t n_ctx;\n", "returns"),
        ("    bool kv_unified;\n    void * samplers;\n", "returns"),
        ("    int type_k;\n    int type_v;\n", "says type"),
    ],
    ids=["a field before", "a field between", "fields in another order"],
)
def test_a_library_with_another_layout_is_refused(declared: str, complaint: str) -> None:
    changed = {
        "    uint32_t n_ctx;\n": "    uint64_t added; uint32_t n_ctx;\n",
        "    bool kv_unified;\n    void * samplers;\n": "    bool kv_unified; void * added; void * samplers;\n",
        "    int type_k;\n    int type_v;\n": "    float type_k;\n    int type_v;\n",
    }[declared]
    code = (
        "from antiphon.engine.backends.llamacpp import c_api\n"
        f"assert {declared!r} in c_api.DECLARATIONS\n"
        f"c_api.DECLARATIONS = c_api.DECLARATIONS.replace({declared!r}, {changed!r})\n"
    )
    refused = python(code + LOAD)
    assert refused.returncode != 0
    assert "not a llama.cpp that this version can call" in refused.stderr
    assert complaint in refused.stderr


def test_without_it_everything_else_works_and_an_engine_says_what_to_install(tmp_path: Path) -> None:
    help_ = python(
        f"{WITHOUT_PACKAGE}import sys; sys.argv = ['antiphon', '--help']\nfrom antiphon.cli.main import main; main()"
    )
    assert help_.returncode == 0, help_.stderr
    assert "Usage" in help_.stdout
    imports = python(
        f"{WITHOUT_PACKAGE}import antiphon.gateway, antiphon.app.gateway, antiphon.engine.backends.remote.engine\n"
        "import antiphon.engine.backends.llamacpp.runtime, antiphon.engine.backends.llamacpp.encoder\n"
        "from antiphon.engine.backends.remote.engine import RemoteEngine; RemoteEngine('http://127.0.0.1:9/v1')\n"
    )
    assert imports.returncode == 0, imports.stderr
    code = (
        f"{WITHOUT_PACKAGE}from antiphon.engine.__main__ import main\n"
        f"raise SystemExit(main(['--socket', {str(tmp_path / 'engine.sock')!r}, '--model', 'smollm2-135m']))\n"
    )
    engine = python(code)
    assert engine.returncode == SetupError.exit_code
    (line,) = [line for line in engine.stderr.splitlines() if line.strip()]
    assert "llama.cpp is not installed" in line
    assert "antiphon[llama]" in line
    assert VARIABLE in line
