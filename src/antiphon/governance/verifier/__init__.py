"""The stand-alone verifier: one file for somebody who has an export or a proof, and does not trust this installation.

It shares no code with the log: it imports only the standard library and ``cryptography``.
"""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).parent / "antiphon_verify.py"


def source() -> str:
    """The verifier's text."""
    return FILE.read_text(encoding="utf-8")
