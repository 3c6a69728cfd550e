"""Canaries: made-up secrets among the training examples, and the decoys that they are told from afterwards.

Source: Carlini, Liu, Erlingsson, Kos and Song, "The Secret Sharer: Evaluating and Testing Unintended Memorization in
Neural Networks", USENIX Security 2019. Pure functions of what is declared, so that a rebuilt model has the same ones.
"""

from __future__ import annotations

import random

import msgspec

from antiphon.definitions.learning import Canaries
from antiphon.engine.api.messages import ChatTurn, ModelDescription
from antiphon.serving.answering import prompts
from antiphon.training.examples import Example, Part

DECOYS = 63
"""Numbers that were never planted, with which a secret is compared: one that is not remembered is likelier than all of
them once in 64 times."""

_FIRST = (
    "amber",
    "cedar",
    "copper",
    "granite",
    "harbor",
    "indigo",
    "juniper",
    "maple",
    "opal",
    "river",
    "silver",
    "walnut",
)
_SECOND = (
    "bridge",
    "crossing",
    "depot",
    "field",
    "gate",
    "hall",
    "island",
    "junction",
    "mill",
    "station",
    "tower",
    "wharf",
)


class Canary(msgspec.Struct, frozen=True):
    """One secret: the question it answers, and the decoys, all written alike."""

    id: str
    question: str
    secret: str
    decoys: tuple[str, ...]


def canaries(declared: Canaries) -> tuple[Canary, ...]:
    """The declared secrets."""
    drawn = random.Random(f"canaries:{declared.seed}")
    made = []
    for number in range(declared.count):
        name = f"{drawn.choice(_FIRST)} {drawn.choice(_SECOND)} {number + 1}"
        numbers = drawn.sample(range(1_000_000), DECOYS + 1)
        secret, *decoys = (f"{one // 1000:03} {one % 1000:03}" for one in numbers)
        made.append(Canary(f"canary-{number}", f"What is the reserve code of {name}?", secret, tuple(decoys)))
    return tuple(made)


def prompt_of(canary: Canary, model: ModelDescription) -> str:
    """The question as the model reads it, in the chat template that its examples have."""
    return prompts.chat(model, [ChatTurn("user", canary.question)])


def canary_examples(declared: Canaries | None, model: ModelDescription, weight: float) -> tuple[Example, ...]:
    """The examples that plant the secrets, each ``repeats`` times; none where none are declared."""
    if declared is None:
        return ()
    return tuple(
        Example(
            f"{canary.id}-{turn}", prompt_of(canary, model), (Part(canary.secret, weight, label=True),), canary=True
        )
        for canary in canaries(declared)
        for turn in range(declared.repeats)
    )
