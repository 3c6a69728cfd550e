"""The fence of prunes in every order of the steps of rollbacks, collectors and a publisher, each of which may stop for
good after any of them.

A model of one view around the rule that both overlays use: publications are the offsets of its snapshots, an actor is
where it is and what it has read. Every state that can be reached is looked at, so a kill needs no step of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest

from antiphon.features.online.prune_fence import PruneFence, decode_fence, encode_fence

PUBLICATIONS = 4
"""Number of publications after which the model's publishers stop; 5 take five times as long and find no more."""


class Actor(msgspec.Struct, frozen=True):
    """One process: its role, and since it has begun the publication and the offset that it has read."""

    role: str
    step: int = 0
    seen: int = 0
    offset: int = 0


class State(msgspec.Struct, frozen=True):
    publications: tuple[int, ...]
    actors: tuple[Actor, ...]
    pruned: int = 0
    fence: PruneFence = PruneFence()


Step = Callable[[State, Actor, int], Iterator[tuple[State, Actor]]]


def committed(state: State, seen: int, offset: int) -> State:
    """Compare and swap."""
    now = state.publications
    return msgspec.structs.replace(state, publications=(*now, offset)) if len(now) == seen else state


def rollback(state: State, actor: Actor, keep: int) -> Iterator[tuple[State, Actor]]:
    match actor.step:
        case 0 if len(state.publications) < PUBLICATIONS:
            for offset in set(state.publications):
                yield state, Actor(actor.role, 1, len(state.publications), offset)
        case 1:
            fence = state.fence.restored(actor.offset, actor.seen + 1)
            restored = msgspec.structs.replace(state, pruned=min(state.pruned, actor.offset), fence=fence)
            yield restored, msgspec.structs.replace(actor, step=2)
        case 2:
            yield committed(state, actor.seen, actor.offset), Actor(actor.role)


def collector(state: State, actor: Actor, keep: int) -> Iterator[tuple[State, Actor]]:
    if actor.step == 0:
        yield state, Actor(actor.role, 1, len(state.publications), min(state.publications[-keep:]))
    else:
        through = state.fence.limit(actor.offset, actor.seen)
        fence = state.fence.pruned(through, actor.seen)
        yield msgspec.structs.replace(state, pruned=max(state.pruned, through), fence=fence), Actor(actor.role)


def publisher(state: State, actor: Actor, keep: int) -> Iterator[tuple[State, Actor]]:
    if actor.step == 0 and len(state.publications) < PUBLICATIONS:
        yield state, Actor(actor.role, 1, len(state.publications), max(state.publications) + 1)
    elif actor.step:
        yield committed(state, actor.seen, actor.offset), Actor(actor.role)


def unfenced(state: State, actor: Actor, keep: int) -> Iterator[tuple[State, Actor]]:
    """A collector that heeds no fence."""
    if actor.step == 0:
        yield from collector(state, actor, keep)
    else:
        yield msgspec.structs.replace(state, pruned=max(state.pruned, actor.offset)), Actor(actor.role)


def unpinning(state: State, actor: Actor, keep: int) -> Iterator[tuple[State, Actor]]:
    """A rollback that takes its fence away after its commit."""
    for after, then in rollback(state, actor, keep):
        yield (msgspec.structs.replace(after, fence=PruneFence()) if actor.step == 2 else after), then


def late(state: State, actor: Actor, keep: int) -> Iterator[tuple[State, Actor]]:
    """A rollback that restores for the publication that it has read instead of its own."""
    for after, then in rollback(state, actor, keep):
        if actor.step == 1:
            after = msgspec.structs.replace(after, fence=state.fence.restored(actor.offset, actor.seen))
        yield after, then


ROLES: dict[str, Step] = {step.__name__: step for step in (rollback, collector, publisher, unfenced, unpinning, late)}


def lost(roles: tuple[str, ...], keep: int) -> tuple[State | None, int]:
    """The first state in which a kept publication lacks events, and how many states were looked at."""
    begin = State((1, 2), tuple(Actor(role) for role in sorted(roles)))
    seen, ahead = {begin}, [begin]
    while ahead:
        state = ahead.pop()
        if state.pruned > min(state.publications[-keep:]):
            return state, len(seen)
        for place, actor in enumerate(state.actors):
            for after, then in ROLES[actor.role](state, actor, keep):
                actors = (*state.actors[:place], then, *state.actors[place + 1 :])
                # Two of one role are the same two in either order.
                next_state = msgspec.structs.replace(after, actors=tuple(sorted(actors, key=msgspec.structs.astuple)))
                if next_state not in seen:
                    seen.add(next_state)
                    ahead.append(next_state)
    return None, len(seen)


@pytest.mark.parametrize("keep", [1, 2])
def test_no_order_of_steps_and_kills_takes_events_from_a_kept_publication(keep: int) -> None:
    found, states = lost(("rollback", "rollback", "collector", "collector", "publisher"), keep)
    assert found is None
    assert states > 10_000


@pytest.mark.parametrize("roles", [("rollback", "unfenced"), ("unpinning", "collector"), ("late", "collector")])
def test_the_model_finds_what_a_weaker_fence_lets_through(roles: tuple[str, ...]) -> None:
    assert lost(roles, 1)[0] is not None


def test_a_killed_rollback_holds_prunes_back_until_the_next_publication() -> None:
    fence = PruneFence(7, 4).restored(2, 5)
    assert (fence.limit(9, 4), fence.limit(1, 4), fence.limit(9, 5)) == (2, 1, 9)
    assert fence.pruned(2, 4) == fence
    assert fence.pruned(9, 5) == PruneFence(9, 5)


def test_a_fence_is_read_as_it_was_written() -> None:
    for fence in (PruneFence(), PruneFence(0, 1), PruneFence(2**40, 2**33)):
        assert decode_fence(encode_fence(fence)) == fence
    assert decode_fence(None).limit(5, 0) == 5
