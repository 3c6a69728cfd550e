"""The disk image search and the replacement of every key under load, in their short form over real processes."""

from __future__ import annotations

import base64
import gzip
import zlib
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from benchmarks.governance import encryption
from benchmarks.governance.disk_image import search

WORD = "ZqPlantedWord"


@pytest.mark.parametrize(
    "content",
    [
        WORD.encode(),
        WORD.encode("utf-16-le"),
        WORD.encode("utf-16-be"),
        WORD.encode().hex().encode(),
        *(base64.b64encode(b"x" * shift + WORD.encode() + b" and more") for shift in range(3)),
        zlib.compress(b"before " + WORD.encode() * 3),
        gzip.compress(b"before " + WORD.encode() * 3),
        bytes(pyarrow.compress(b"before " + WORD.encode() * 3, codec="zstd", asbytes=True)),
    ],
    ids=["utf-8", "utf-16-le", "utf-16-be", "hex", "base64-0", "base64-1", "base64-2", "zlib", "gzip", "zstd"],
)
def test_the_search_finds_a_word_however_it_is_written(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(b"\0\1\2" + content + b"\3\4")
    assert search([tmp_path], [WORD, "ZqAnotherWord"]) == {
        WORD: [found for found in ("file", "file (decompressed)") if found in search([tmp_path], [WORD])[WORD]],
        "ZqAnotherWord": [],
    }
    assert search([tmp_path], [WORD])[WORD]


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "none"])
def test_the_search_reads_parquet(tmp_path: Path, compression: str) -> None:
    table = pyarrow.table({"column": [f"{WORD} {number}" for number in range(1_000)]})
    pyarrow.parquet.write_table(table, tmp_path / "file.parquet", compression=compression, write_statistics=False)
    assert search([tmp_path], [WORD])[WORD]


@pytest.mark.chaos
async def test_no_planted_word_is_on_the_disk_of_an_encrypted_project_and_each_is_in_plaintext() -> None:
    found = await encryption.image()
    assert found["leaked"] == {}
    assert found["found_encrypted"] == 0
    assert found["found_plaintext"] == found["words"] - len(encryption.NOT_ON_DISK)
    assert found["not_found_in_plaintext"] == []


@pytest.mark.chaos
async def test_every_key_is_replaced_under_load_without_a_failed_request() -> None:
    found = await encryption.rotation(encryption.SIZES["ci"])
    assert found["failed"] == 0
    assert found["asked"] > 50
    assert found["problems"] == 0
    assert found["left_under_old_keys"] == 0
    assert all(found["resealed"])
