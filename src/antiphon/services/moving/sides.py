"""The two sides of a move: the stores of one project under its present settings and under those that it will have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from antiphon.core import settings
from antiphon.core.errors import InvalidInputError
from antiphon.services.moving import settings_file
from antiphon.services.project.store import Store


class Side:
    """The stores of one project under one of its two settings."""

    def __init__(self, store: Store) -> None:
        # Not above: a process that watches for a move loads this module, and seldom opens a side.
        from antiphon.services.batches import file_contents
        from antiphon.services.project.feature_stores import FeatureStores

        self.store = store
        self.features = FeatureStores(store)
        self.contents = file_contents(store)

    @property
    def places(self) -> dict[str, str]:
        """Part to where it is."""
        return places_of(self.store)

    def close(self) -> None:
        """Close what was opened."""
        self.features.close()
        self.contents.close()
        self.store.close()


def places_of(store: Store) -> dict[str, str]:
    """Part of a project to where it is."""
    section = store.settings.features
    return {
        "catalog": store.backend.place,
        "lake": section.lake or settings_file.EMBEDDED,
        "models": section.lake or settings_file.EMBEDDED,
        "files": store.settings.batch.files or settings_file.EMBEDDED,
        "online": section.online or settings_file.EMBEDDED,
        "log": section.log or settings_file.EMBEDDED,
    }


@contextmanager
def sides(root: Path, text: str, *, dry: bool = False) -> Iterator[tuple[Side, Side]]:
    """The stores that a project has and those that a settings file of this text names; raises as :func:`move`."""
    before, paths = settings.load(root)
    after = settings.parse(text.encode(), root / settings.FILE_NAME)
    settings_file.require_stores_alone(before, after)
    with ExitStack() as stack:
        source = stack.enter_context(closing(Side(Store.open(root, moved=True))))
        paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        there = Store(after, paths)
        if dry or there.backend.place == source.store.backend.place:
            there.database = source.store.database
        there.database.codec = source.store.database.codec
        target = stack.enter_context(closing(Side(there)))
        target.features.describe()  # Before anything is copied: what does not answer, or is not named well.
        yield source, target


def moving_parts(source: Side, target: Side) -> set[str]:
    """The parts whose places differ."""
    there = target.places
    moving = {part for part, place in source.places.items() if there[part] != place}
    if not moving:
        raise InvalidInputError(
            "Every store is there already.",
            where=settings.FILE_NAME,
            next_step="Name another URL than the settings do; ANTIPHON_SECTION__FIELD in the environment counts more "
            "than the file.",
        )
    return moving
