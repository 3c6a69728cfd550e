"""Next steps for a name that is not there."""

from __future__ import annotations

import pytest

from antiphon.core.suggestions import nearest

MANY = [f"view_{number}" for number in range(20)]


@pytest.mark.parametrize(
    ("name", "known", "otherwise", "says"),
    [
        ("dekc", ["desk", "watch"], "", "Did you mean 'desk'? There are desk, watch."),
        ("Desk", ["desk"], "", "Did you mean 'desk'? There is desk."),
        ("zzz", ["desk"], "List them.", "There is desk."),
        ("zzz", [], "List them.", "List them."),
        ("zzz", [], "", ""),
        ("viev_7", MANY, "List them.", "Did you mean 'view_7'? List them."),
    ],
)
def test_the_nearest_name_and_what_there_is(name: str, known: list[str], otherwise: str, says: str) -> None:
    assert nearest(name, known, otherwise) == says
