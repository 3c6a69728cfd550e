"""A small key service of another make, over real HTTP: what a key provider of this shape is tested against."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class KeyService:
    """Wraps by a keystream and a MAC under keys of its own; ``failing`` requests are answered with 503."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.keys = {"kms-1": os.urandom(32)}
        self.current = "kms-1"
        self.failing = 0
        self.requests: list[str] = []
        self.url = ""

    def answer(self, path: str, token: str, body: dict[str, str]) -> tuple[int, dict[str, str]]:
        self.requests.append(path)
        if self.failing > 0:
            self.failing -= 1
            return 503, {}
        if token != f"Bearer {self.token}":
            return 401, {}
        if path == "/rotate":
            self.current = f"kms-{len(self.keys) + 1}"
            self.keys[self.current] = os.urandom(32)
            return 200, {"key_id": self.current}
        context = base64.b64decode(body["context"])
        if path == "/wrap":
            sealed = self._sealed(self.keys[self.current], base64.b64decode(body["plaintext"]), context)
            return 200, {"key_id": self.current, "ciphertext": base64.b64encode(sealed).decode()}
        key = self.keys.get(body["key_id"])
        if key is None:
            return 404, {}
        sealed = base64.b64decode(body["ciphertext"])
        nonce, hidden, tag = sealed[:16], sealed[16:-32], sealed[-32:]
        if not hmac.compare_digest(tag, hmac.digest(key, nonce + hidden + context, "sha256")):
            return 400, {}
        return 200, {"plaintext": base64.b64encode(self._turned(key, nonce, hidden)).decode()}

    def _sealed(self, key: bytes, content: bytes, context: bytes) -> bytes:
        nonce = os.urandom(16)
        hidden = self._turned(key, nonce, content)
        return nonce + hidden + hmac.digest(key, nonce + hidden + context, "sha256")

    @staticmethod
    def _turned(key: bytes, nonce: bytes, content: bytes) -> bytes:
        stream = hashlib.shake_256(key + nonce).digest(len(content))
        return bytes(one ^ other for one, other in zip(content, stream, strict=True))


@contextmanager
def key_service(token: str = "token") -> Iterator[KeyService]:
    """Serve on the loopback interface until the block ends."""
    service = KeyService(token)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, answer = service.answer(self.path, self.headers.get("authorization", ""), body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
