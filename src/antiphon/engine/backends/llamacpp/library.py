"""Loads llama.cpp's shared library: the one of the ``llama`` extra, or any build that ``LLAMA_CPP_LIB`` names."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
from collections import deque
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from antiphon.core.errors import EngineError, SetupError
from antiphon.engine.backends.llamacpp import c_api

VARIABLE = "LLAMA_CPP_LIB"
"""Environment variable with the path of a shared library of llama.cpp."""

_PACKAGE = "llama_cpp_py_sync"
_INSTALL = f"Install it with `pip install 'antiphon[llama]'`, or set {VARIABLE} to the path of a build's libllama.so."
_SPIN_COUNT = "1000"
_ALL_LAYERS = 1 << 16
_log = logging.getLogger("antiphon.engine")


class Library:
    """The loaded shared library, once per process.

    Attributes:
        lib, ffi: cffi's view of it, by the declarations of :mod:`~antiphon.engine.backends.llamacpp.c_api`.
        digest: SHA-256 over the library and those of ggml beside it.
        instructions: instruction sets that it computes with; part of the fingerprint.

    Raises:
        SetupError: there is none, it cannot be loaded, or it is no llama.cpp that this package can call.
    """

    def __init__(self) -> None:
        # Waiting OpenMP threads must not spin for long on a shared machine; libgomp reads this when it loads.
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
        import cffi

        self.path = find_library()
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef(c_api.DECLARATIONS)
        self.lib: Any = self._open()
        self._messages: deque[str] = deque(maxlen=8)
        self._callback = self.ffi.callback("ggml_log_callback", self._record)
        self.lib.llama_log_set(self._callback, self.ffi.NULL)
        self._load_backends()
        self.lib.llama_backend_init()
        self.digest = self._digest()
        self.instructions = self._instructions()

    @classmethod
    @cache
    def get(cls) -> Library:
        return cls()

    def model_parameters(self, gpu_layers: int = 0) -> Any:
        """Parameters of a model with ``gpu_layers`` layers on the GPU; negative for all, 0 for a model on the CPU."""
        parameters = self.lib.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers if gpu_layers >= 0 else _ALL_LAYERS
        if not gpu_layers:
            parameters.devices = self._no_devices
        return parameters

    def tokenize(self, vocabulary: Any, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text; with ``parse_special`` names of special tokens become those tokens. Raises
        ``EngineError``."""
        content = text.encode()
        capacity = len(content) + 8
        tokens = self.ffi.new("llama_token[]", capacity)
        count = self.lib.llama_tokenize(vocabulary, content, len(content), tokens, capacity, add_special, parse_special)
        if count < 0:
            raise EngineError("llama.cpp could not tokenize a text.")
        return list(tokens[0:count])

    def last_message(self) -> str:
        """The latest warning or error that llama.cpp logged."""
        return self._messages[-1] if self._messages else "no reason given"

    def _open(self) -> Any:
        try:
            library = self.ffi.dlopen(str(self.path))
        except OSError as error:
            gomp = "libgomp" in str(error)
            raise SetupError(
                f"llama.cpp cannot be loaded ({error}).",
                where=str(self.path),
                next_step="Install OpenMP: `apt-get install libgomp1`." if gomp else _INSTALL,
            ) from error
        for difference in c_api.differences(self.ffi, library):
            raise SetupError(
                f"The library is not a llama.cpp that this version can call: {difference}.",
                where=str(self.path),
                next_step=f"Use a build of llama.cpp with the C API of {c_api.BUILD}, or unset {VARIABLE} and install "
                "`antiphon[llama]`.",
            )
        self._no_devices = self.ffi.new("void *[1]")
        return library

    def _load_backends(self) -> None:
        """Load ggml's backends where they are files of their own, as in llama.cpp's published builds."""
        self.ffi.cdef(c_api.REGISTRY)
        try:
            registered = self.lib.ggml_backend_dev_count()
            load = self.lib.ggml_backend_load_all_from_path
        except AttributeError:
            return
        if not registered:
            load(os.fsencode(self.path.parent))

    def _digest(self) -> str:
        folder, digest = self.path.parent, hashlib.sha256()
        for path in [self.path, *sorted(chain(folder.glob("libggml-*.so*"), folder.glob("libggml-*.dylib")))]:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _instructions(self) -> list[str]:
        self.ffi.cdef("".join(f"int ggml_cpu_has_{name}(void);" for name in c_api.FEATURES))
        try:
            return [name for name in c_api.FEATURES if getattr(self.lib, f"ggml_cpu_has_{name}")()]
        except AttributeError:  # ggml has loaded the CPU's backend, whose functions are not found through this library.
            return [self.ffi.string(self.lib.llama_print_system_info()).decode("utf-8", "replace")]

    def _record(self, level: int, text: Any, _: Any) -> None:
        message = self.ffi.string(text).decode("utf-8", "replace").strip()
        if message and level in (3, 4):
            self._messages.append(message)
            _log.debug("llama.cpp: %s", message)


def find_library() -> Path:
    """The path of llama.cpp's shared library: ``LLAMA_CPP_LIB`` goes before the ``llama`` extra; ``SetupError`` without
    both."""
    if named := os.environ.get(VARIABLE):
        path = Path(named)
        if not path.is_file():
            raise SetupError(
                f"{VARIABLE} names no file.",
                where=named,
                next_step="Set it to the path of a build's libllama.so, or unset it and install `antiphon[llama]`.",
            )
        return path.absolute()
    package = importlib.util.find_spec(_PACKAGE)
    folder = Path(package.origin).parent if package is not None and package.origin else None
    name = "libllama.dylib" if sys.platform == "darwin" else "libllama.so"
    if folder is None or not (folder / name).is_file():
        raise SetupError("llama.cpp is not installed, and this engine needs it.", next_step=_INSTALL)
    return folder / name
