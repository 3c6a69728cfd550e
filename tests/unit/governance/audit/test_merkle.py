"""The tree against the RFC's own words, and against the published roots of certificate-transparency's test tree."""

from __future__ import annotations

import pytest
from tests.unit.governance.audit import rfc6962

from antiphon.governance.audit import merkle
from antiphon.governance.audit.merkle import Tree

LARGEST = 70
"""Every size up to here: two levels of kept nodes, and a ragged edge over them."""

# certificate-transparency, merkletree tests: the eight inputs and the roots of their first n.
INPUTS = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
# The same suite's proofs: (leaf, size) counted from 0, and (before, after).
INCLUSION_0_8 = (
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
)
CONSISTENCY_6_8 = (
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
)


class Log:
    """A tree and its kept nodes in memory."""

    def __init__(self, entries: list[bytes]) -> None:
        self.leaves = [merkle.leaf_hash(entry) for entry in entries]
        self.tree, nodes = Tree().extended(self.leaves)
        self.nodes = {(node.level, node.position): node.hash for node in nodes}
        self.read = 0

    def root(self, size: int) -> bytes:
        return Tree().extended(self.leaves[:size])[0].root

    def kept(self, level: int, start: int, end: int) -> list[bytes]:
        assert level % merkle.STRIDE == 0
        self.read += end - start
        if level == 0:
            return self.leaves[start:end]
        return [self.nodes[level, position] for position in range(start, end)]


@pytest.fixture(scope="module")
def entries() -> list[bytes]:
    return [f"entry {number}".encode() for number in range(LARGEST)]


@pytest.fixture(scope="module")
def log(entries: list[bytes]) -> Log:
    return Log(entries)


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    assert Log(INPUTS[:size]).tree.root.hex() == ROOTS[size]
    assert rfc6962.mth(INPUTS[:size]).hex() == ROOTS[size]


def test_proofs_are_the_published_ones() -> None:
    log = Log(INPUTS)
    assert tuple(one.hex() for one in merkle.inclusion(log.kept, 0, 8)) == INCLUSION_0_8
    assert tuple(one.hex() for one in merkle.consistency(log.kept, 6, 8)) == CONSISTENCY_6_8


def test_every_root_and_proof_is_the_rfcs(entries: list[bytes], log: Log) -> None:
    tree = Tree()
    for size in range(1, LARGEST + 1):
        tree, _ = tree.extended(log.leaves[size - 1 : size])
        root = rfc6962.mth(entries[:size])
        assert tree.root == root
        for sequence in range(size):
            found = merkle.inclusion(log.kept, sequence, size)
            assert list(found) == rfc6962.path(sequence, entries[:size])
            assert merkle.included(log.leaves[sequence], sequence, size, found, root)
        for before in range(1, size + 1):
            proof = merkle.consistency(log.kept, before, size)
            assert list(proof) == rfc6962.proof(before, entries[:size])
            assert merkle.consistent(before, rfc6962.mth(entries[:before]), size, root, proof)


def test_a_wrong_proof_proves_nothing(entries: list[bytes], log: Log) -> None:
    for size, sequence in ((1, 0), (7, 3), (7, 6), (64, 63), (70, 68)):
        root, path = log.root(size), merkle.inclusion(log.kept, sequence, size)
        leaf = log.leaves[sequence]
        assert not merkle.included(merkle.leaf_hash(b"other"), sequence, size, path, root)
        assert not merkle.included(leaf, sequence, size, (*path, leaf), root)
        assert not merkle.included(leaf, sequence, size, path, merkle.EMPTY)
        assert not any(
            merkle.included(leaf, other, size, path, root) for other in range(-1, size + 2) if other != sequence
        )
        for at in range(len(path)):
            assert not merkle.included(leaf, sequence, size, path[:at] + path[at + 1 :], root)
            changed = (*path[:at], bytes([path[at][0] ^ 1]) + path[at][1:], *path[at + 1 :])
            assert not merkle.included(leaf, sequence, size, changed, root)


def test_a_wrong_consistency_proof_proves_nothing(log: Log) -> None:
    for before, after in ((1, 2), (3, 7), (4, 7), (6, 8), (64, 70), (7, 70)):
        old, new = log.root(before), log.root(after)
        path = merkle.consistency(log.kept, before, after)
        assert merkle.consistent(before, old, after, new, path)
        other = log.root(before - 1)
        assert not merkle.consistent(before, other, after, new, path)
        assert not merkle.consistent(before, old, after, old, path)
        assert not merkle.consistent(after, old, before, new, path)
        assert not merkle.consistent(before, old, after, new, (*path, old))
        assert not merkle.consistent(before, old, after, new, path[:-1])
    assert merkle.consistent(5, old, 5, old, ())
    assert not merkle.consistent(5, old, 5, new, ())
    assert not merkle.consistent(5, old, 5, old, (old,))
    assert merkle.consistent(0, merkle.EMPTY, 5, old, ())
    assert not merkle.consistent(0, old, 5, new, ())


def test_a_proof_reads_few_nodes() -> None:
    size = 5_000
    log = Log([b"%d" % number for number in range(size)])
    assert len(log.nodes) < size / 14
    log.read = 0
    merkle.inclusion(log.kept, 2_345, size)
    merkle.consistency(log.kept, 2_345, size)
    assert log.read < 2 * 8 * (size.bit_length() + 1)


def test_there_is_no_proof_of_what_is_not_there(log: Log) -> None:
    for sequence, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(ValueError, match="no leaf"):
            merkle.inclusion(log.kept, sequence, size)
    with pytest.raises(ValueError, match="no beginning"):
        merkle.consistency(log.kept, 4, 3)
