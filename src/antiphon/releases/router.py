"""Assigns releases to requests while a rollout is under way: pure, and the same in every gateway.

Invariants:
- A user stays in the arm it came into while the weights grow: its position in [0, 1) depends on the rollout and the
  user alone, the canary is [0, w), the control [1 − w, 1), and w never exceeds one half.
- Nobody is in two arms, and the two are equally large.
- Who is mirrored is decided by the request, not by the user, and nobody in the canary is mirrored.

Hashing as in Kohavi, Tang & Xu, "Trustworthy Online Controlled Experiments" (2020), 14: a new experiment hashes users
anew, so that its arms are independent of those of the one before.
"""

from __future__ import annotations

from hashlib import blake2b

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.releases.rollouts import Assignment, RolloutRecord


def assign(
    live: Release, rollout: RolloutRecord | None, candidate: Release | None, unit: str, request: str
) -> Assignment:
    """Route one request.

    Args:
        live: the live release, which is the rollout's control.
        rollout: the one under way, if any; a held one routes as before.
        candidate: its candidate.
        unit: keyed hash of the user, or of the entity where no user is named.
        request: the request's id.
    """
    # A rollout that compares with something else than what is live has lost its meaning: everybody gets what is live.
    if rollout is None or candidate is None or rollout.ended_at is not None or rollout.control != live.id:
        return Assignment(live)
    weight = rollout.weight
    at = position(rollout.id, "unit", unit)
    if at < weight:
        return Assignment(candidate, "canary", rollout.id, rollout.step, weight)
    mirror = candidate if position(rollout.id, "request", request) < rollout.plan.shadow else None
    if at >= 1.0 - weight:
        return Assignment(live, "control", rollout.id, rollout.step, weight, mirror)
    if mirror is None:
        return Assignment(live)
    return Assignment(live, "live", rollout.id, rollout.step, 1.0, mirror)


def position(rollout: str, purpose: str, name: str) -> float:
    """A number in [0, 1) that is fixed by its arguments and uniform over names (BLAKE2b keyed by the rollout)."""
    digest = blake2b(name.encode(), key=rollout.encode()[:64], person=purpose.encode(), digest_size=8).digest()
    # 53 bits: what a float holds exactly, so that no position is rounded up to 1.
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
