"""Metrics of a help desk's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from antiphon import metric


@metric(bounds=(0, 1))
def names_the_thing(request: Mapping[str, Any], output: Mapping[str, Any], outcome: Mapping[str, str]) -> float:
    """Whether the reply names what the ticket is about."""
    thing = str(request["question"]).split(" my ")[1].split()[0]
    return float(thing in output["reply"] and thing in outcome["reply"])


def flaky(request: Mapping[str, Any], output: Mapping[str, Any], outcome: Mapping[str, str]) -> float:
    """Raises on every third ticket."""
    number = int(str(request["question"]).split()[1].rstrip(":"))
    if number % 3 == 0:
        raise KeyError("gone")
    return number % 3 - 1


def nonsense(request: Mapping[str, Any], output: Mapping[str, Any], outcome: Mapping[str, str]) -> float:
    """Is no number."""
    return math.nan


def brief(request: Mapping[str, Any], output: str, outcome: Mapping[str, str]) -> float:
    """Whether the answer has fewer than 20 words."""
    return float(len(output.split()) < 20)


def words(request: Mapping[str, Any], output: str, outcome: Mapping[str, str]) -> float:
    """The number of words."""
    return len(output.split())
