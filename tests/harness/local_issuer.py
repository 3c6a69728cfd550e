"""A token issuer on this machine: real keys, a real HTTP server for its key set, and tokens good or bad on request.

It signs with ``cryptography`` and the standard library alone, so that nothing of it is shared with what checks tokens.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

AUDIENCE = "antiphon"


@dataclass
class SigningKey:
    """A key pair: ``public`` is its JSON Web Key, ``sign`` makes a JWS signature."""

    kid: str
    algorithm: str
    public: dict[str, Any]
    sign: Callable[[bytes], bytes]


@dataclass
class LocalIssuer:
    """Serves ``/jwks.json`` on the loopback.

    Attributes:
        published: the keys in the set, as JSON; change it to roll keys over.
        requests: how often the set was asked for.
        answer: instead of the set: status, headers, body, and seconds before each byte.
    """

    keys: dict[str, SigningKey] = field(default_factory=dict)
    published: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0
    answer: tuple[int, Mapping[str, str], bytes, float] | None = None

    def __post_init__(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests += 1
                body = json.dumps({"keys": issuer.published}).encode()
                status, headers, body, pause = issuer.answer or (200, {}, body, 0.0)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    for at in range(0, len(body), 1 if pause else max(1, len(body))):
                        self.wfile.write(body[at : at + 1] if pause else body)
                        self.wfile.flush()
                        time.sleep(pause)
                except OSError:
                    pass  # whoever asked did not wait for the end

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The issuer's name, below which its key set lies."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def jwks(self) -> str:
        """URL of the key set."""
        return f"{self.url}/jwks.json"

    def add(self, kid: str, algorithm: str = "ES256") -> SigningKey:
        """A new key pair, which is published."""
        key = self.keys[kid] = make_key(kid, algorithm)
        self.published.append(key.public)
        return key

    def token(
        self, kid: str, *, header: Mapping[str, Any] | None = None, now: float | None = None, **claims: Any
    ) -> str:
        """A signed token of ``ann``, an engineer of ``default``, for five minutes; a claim of ``None`` is left out."""
        at = int(time.time() if now is None else now)
        key = self.keys[kid]
        body = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "tenant": "default",
            "role": "builders",
            "iat": at,
            "nbf": at,
            "exp": at + 300,
            **claims,
        }
        head = {"alg": key.algorithm, "typ": "JWT", "kid": kid, **(header or {})}
        return signed(
            {name: value for name, value in head.items() if value is not None},
            {name: value for name, value in body.items() if value is not None},
            key.sign,
        )

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def signed(header: Mapping[str, Any], claims: Any, sign: Callable[[bytes], bytes]) -> str:
    """A compact JWS (RFC 7515, section 7.1)."""
    content = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
    return f"{content}.{encoded(sign(content.encode()))}"


def encoded(content: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def make_key(kid: str, algorithm: str, bits: int = 2048) -> SigningKey:
    """A key pair for RS256, PS256, ES256, ES384 or EdDSA."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

    named = {"kid": kid, "alg": algorithm, "use": "sig"}
    if algorithm in ("RS256", "PS256"):
        pair = rsa.generate_private_key(65537, bits)
        numbers = pair.public_key().public_numbers()
        way: Any = padding.PKCS1v15()
        if algorithm == "PS256":
            way = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        public = {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        return SigningKey(kid, algorithm, {**named, **public}, lambda text: pair.sign(text, way, hashes.SHA256()))
    if algorithm in ("ES256", "ES384"):
        curve, digest, size = (
            (ec.SECP256R1(), hashes.SHA256(), 32) if algorithm == "ES256" else (ec.SECP384R1(), hashes.SHA384(), 48)
        )
        own = ec.generate_private_key(curve)
        point = own.public_key().public_numbers()

        def sign(text: bytes) -> bytes:
            r, s = utils.decode_dss_signature(own.sign(text, ec.ECDSA(digest)))
            return r.to_bytes(size) + s.to_bytes(size)

        public = {
            "kty": "EC",
            "crv": "P-256" if size == 32 else "P-384",
            "x": encoded(point.x.to_bytes(size)),
            "y": encoded(point.y.to_bytes(size)),
        }
        return SigningKey(kid, algorithm, {**named, **public}, sign)
    edwards = ed25519.Ed25519PrivateKey.generate()
    raw = edwards.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return SigningKey(kid, algorithm, {**named, "kty": "OKP", "crv": "Ed25519", "x": encoded(raw)}, edwards.sign)


def _number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8))
