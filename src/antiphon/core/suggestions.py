"""Next steps for a name that does not exist: the one it may have been meant to be, and what there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LISTED = 10


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Sentences that say what to do about a name that is not among the known ones.

    ``otherwise`` is what to do where nothing is known, or more than fits."""
    names = sorted(set(known))
    folded = {each.casefold(): each for each in names}
    close = difflib.get_close_matches(name.casefold(), folded, 1)
    said = [f"Did you mean {folded[close[0]]!r}?"] if close else []
    if 0 < len(names) <= MOST_LISTED:
        said.append(f"There {'is' if len(names) == 1 else 'are'} {', '.join(names)}.")
    elif otherwise:
        said.append(otherwise)
    return " ".join(said)
