"""Texts with one violation planted at a known place, in every kind, position and chunking, for runs against guards.

Invariant: nothing here is the guards' code. A violation is known because it was written, not because it was found, so
the harness sees what guards miss.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import msgspec

from antiphon.definitions.application import SLO, ApplicationSpec, Decoding, Figure, Reuse
from antiphon.definitions.guards import AnyGuard, ContentGuard, FigureGuard, FunctionGuard, PatternGuard, PIIGuard
from antiphon.definitions.learning import Rollout
from antiphon.definitions.prompt import Prompt

MODULE = "tests.harness.adversarial_texts"
KINDS = ("email", "phone", "iban", "card", "ip", "phrase", "code", "figure", "function")
CLEAN = (
    "Thank you for writing to us.",
    "Your parcel is on its way, and we are sorry for the wait!",
    "The delay is 25 minutes now.",
    "We will write again; nothing is left to do.",
    "Is there anything else?",
    "Delays run at twenty-five minutes.",
    'Dear customer, "patience" is all we ask.',
    "The shop (a small one) opens early.",
    "Ünser Gruß geht an alle.",
)
PHRASE = "money back guarantee"
FALLBACK = "§ Call the shop."
"""It begins like no text, so that where it stands nothing of a text is taken to be shown."""


class PlantedText(msgspec.Struct, frozen=True):
    """A text, its deltas, and the place at which the planted violation begins: no character from there on may be
    shown. Without one (``None``) all of it may."""

    kind: str | None
    text: str
    pieces: tuple[str, ...]
    begin: int | None


def no_secret(text: str, request: object) -> bool:
    """The function of the harness's function guard."""
    return "xyzzy" not in text


def application(rng: random.Random, structured: bool, name: str = "desk") -> ApplicationSpec:
    """An application with every kind of guard that judges beginnings, in any order, and a random action."""
    place = "reply" if structured else ""
    action = rng.choice(("refuse", "template"))
    acts = {"action": action, "fallback": FALLBACK if action == "template" else ""}
    acts["retries"] = rng.choice((0, 0, 1))
    guards: list[AnyGuard] = [
        PIIGuard(place, **acts),
        ContentGuard(place, forbidden=(PHRASE,), **acts),
        PatternGuard(place, pattern=r"INT-\d{4}-[A-Z]{2}", **acts),
        FigureGuard(place, **acts),
        FunctionGuard(place, function=f"{MODULE}:no_secret", timeout=10, **acts),
    ]
    rng.shuffle(guards)
    schema = {
        "type": "object",
        "properties": {
            "topic": {"type": "string"},
            "reply": {"type": "string"},
            "priority": {"type": "integer"},
            "note": {"type": "string"},
        },
        "required": ["topic", "reply", "priority", "note"],
        "additionalProperties": False,
    }
    return ApplicationSpec(
        name=name,
        features={"congestion": "v1", "weather": "v1"},
        entity_keys=("flight", "origin"),
        prompt=Prompt(template="Reply to {{ entity.flight }}: {{ question }} {{ features.congestion.delay }}"),
        model="scripted",
        decoding=Decoding(max_tokens=400),
        output_schema=json.dumps(schema) if structured else None,
        classes=(),
        figures=(Figure("congestion.delay", step=5, unit=("minutes", "min"), roles=("delay", "late")),),
        guards=tuple(guards),
        freshness={},
        reuse=Reuse(mode="never", identical_prompts=False),
        slo=SLO(),
        rollout=Rollout(),
        purpose="replies",
        owner="shop",
    )


def free_text(rng: random.Random) -> PlantedText:
    """Sentences, mostly with a violation in one of them, cut into pieces at random."""
    lines = [rng.choice(CLEAN) for _ in range(rng.randint(1, 7))]
    joint = rng.choice((" ", " ", "\n\n", "  "))
    if rng.random() < 0.1:
        text = joint.join(lines)
        return PlantedText(None, text, _cut(rng, text), None)
    kind, at = rng.choice(KINDS), rng.randrange(len(lines) + 1)
    before, violation, after = _sentence(rng, kind)
    head = joint.join(lines[:at])
    start = len(head) + (len(joint) if head else 0)
    text = joint.join([*lines[:at], before + violation + after, *lines[at:]])
    # Of a false figure and of the function's word the sentence is judged, of the others the words themselves.
    begin = start if kind in ("figure", "function") else start + len(before)
    return PlantedText(kind, text, _cut(rng, text), begin)


def structured_text(rng: random.Random) -> PlantedText:
    """An object whose guarded property mostly has a violation, with random spacing and escapes."""
    planted = free_text(rng)
    value = {"topic": rng.choice(CLEAN), "reply": planted.text, "priority": rng.randrange(9), "note": "Done."}
    if rng.random() < 0.3:  # the property of the violation comes last, or first
        order = rng.choice((("reply", "topic", "priority", "note"), ("topic", "priority", "note", "reply")))
        value = {name: value[name] for name in order}
    separators = rng.choice(((", ", ": "), (",", ":"), (" , ", " : ")))
    plain = rng.random() < 0.5
    text = json.dumps(value, ensure_ascii=plain, separators=separators)
    begin = None
    if planted.begin is not None:
        opening = text.index('"reply"' + separators[1]) + len('"reply"' + separators[1])
        begin = opening + len(json.dumps(planted.text[: planted.begin], ensure_ascii=plain)) - 1
    return PlantedText(planted.kind, text, _cut(rng, text), begin)


def _sentence(rng: random.Random, kind: str) -> tuple[str, str, str]:
    before = rng.choice(("", "Please use ", "So it is: ", "We found that (", "Yes - "))
    after = rng.choice((".", " today.", ", as you know.", "", "!", ") again."))
    if kind == "email":
        name, host = rng.choice(("anna", "b.berg", "x+y", "o_neil")), rng.choice(("mail.example", "a-b.example.org"))
        return before, f"{name}@{host}", after
    if kind == "phone":
        digits = "".join(rng.choice("123456789") for _ in range(9))
        sep = rng.choice((" ", "-", ""))
        return before, f"+49 {sep.join((digits[:2], digits[2:5], digits[5:]))}", after
    if kind == "iban":
        return before, rng.choice(("DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432")), after
    if kind == "card":
        number = rng.choice(("4111111111111111", "5500005555555559"))
        return before, rng.choice((number, " ".join(number[at : at + 4] for at in range(0, 16, 4)))), after
    if kind == "ip":
        return before, rng.choice((f"10.{rng.randrange(256)}.0.{rng.randrange(256)}", "2001:db8::8a2e:370:7334")), after
    if kind == "phrase":
        words = PHRASE.split()
        return before, rng.choice((" ", "\n", "\n\n", "\u00a0")).join(rng.choice((w, w.upper())) for w in words), after
    if kind == "code":
        return before, f"INT-{rng.randrange(10_000):04}-{rng.choice('ABC')}{rng.choice('XYZ')}", after
    if kind == "figure":
        wrong = rng.choice(("40", "26", "2,500", "25.5", "forty", "twenty-six", "two hundred", "２6", "-25"))
        return "The delay is ", wrong, rng.choice((" minutes.", " min.", "  minutes now!"))
    return before, f"xyzzy{rng.choice(('', '-1', ' word'))}", after


def _cut(rng: random.Random, text: str) -> tuple[str, ...]:
    """The text in pieces: characters, words, a few cuts, or one piece."""
    way = rng.randrange(4)
    if way == 0:
        return tuple(text)
    if way == 1 or len(text) < 2:
        return (text,)
    cuts = sorted(rng.sample(range(1, len(text)), min(len(text) - 1, rng.randint(1, 4 if way == 2 else 40))))
    return tuple(text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True))


def unguarded(planted: Sequence[PlantedText], shown: str) -> int:
    """Number of characters of a violation that were shown, of the text that the engine wrote and what is shown begins
    like: attempts that were not shown may begin with the same words."""
    agreed = [_agreed(one.text, shown) for one in planted]
    longest = max(agreed, default=0)
    beyond = [
        longest - one.begin for one, alike in zip(planted, agreed, strict=True)
        if alike == longest and one.begin is not None
    ]  # fmt: skip
    return max([0, *beyond])


def _agreed(text: str, shown: str) -> int:
    """Number of characters with which both begin."""
    apart = next((at for at, (a, b) in enumerate(zip(text, shown, strict=False)) if a != b), None)
    return min(len(text), len(shown)) if apart is None else apart
