"""Finished rows: an entity's values as batch computed them, which reads return unchanged while they hold.

Invariant: a finished row is what the entity's state gives for every moment from the snapshot's own up to ``until``, the
first at which an event becomes visible or leaves a window. A reader compares its moment with both.

A row is a sequence of 8-byte little-endian words, then texts:

- until when it holds (microseconds), flags, the time of its latest events;
- a value each: an integer, a double's bits, a boolean, or the length of a text;
- event times, where not all are the same (flag ``HAS_TIMES``); ``NO_TIME`` of a window without any event;
- where a value is null, bits that tell which are not (flag ``HAS_NULLS``);
- the texts, one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from antiphon.features.online.snapshots.encoding import SnapshotMeta, mask_words, sliced, text_words
from antiphon.features.plan import ViewPlan
from antiphon.features.tiles.entity_state import NOTHING
from antiphon.features.tiles.evaluate import ViewEvaluator
from antiphon.features.values import EntityRow, oldest_of

if TYPE_CHECKING:
    import numpy
    import pyarrow

    Array = numpy.ndarray[Any, Any]

HAS_TIMES, HAS_NULLS = 1, 2
NO_TIME = -(2**63)
NEVER = -(2**63)
"""Until when the row of something holds that has none."""
_HEAD = 3
_TEXT = "t"


def codes_of(schema: pyarrow.Schema, plan: ViewPlan) -> str | None:
    """Kinds of the words of a row, a letter for each feature: ``q`` an integer, ``d`` a double, ``?`` a boolean, ``t``
    a text; ``None`` when a feature has no such word, or there is none. ``schema``: of the snapshot's file of values."""
    import pyarrow

    letters: dict[Any, str] = {
        pyarrow.int64(): "q",
        pyarrow.float64(): "d",
        pyarrow.bool_(): "?",
        pyarrow.string(): _TEXT,
    }
    kinds = [schema.field(name).type if name in schema.names else None for name in _names(plan)]
    if not kinds or any(kind not in letters for kind in kinds):
        return None
    return "".join(letters[kind] for kind in kinds)


def _names(plan: ViewPlan) -> list[str]:
    return [f"{plan.spec.name}.{feature.name}" for feature in plan.features if feature.aggregation != "embed"]


class RowLayout:
    """The rows of one snapshot: how they are read.

    Args:
        codes: of :func:`codes_of`.
        since: the snapshot's own moment (microseconds).
        absent: the row of an entity of which there is no record.
    """

    def __init__(self, codes: str, since: int, absent: EntityRow | None = None) -> None:
        self._since = since
        self._absent = absent
        self._width = len(codes)
        self._masks = -(-len(codes) // 64)
        self._texts = [place for place, code in enumerate(codes) if code == _TEXT]
        words = "<qqq" + codes.replace("?", "?7x").replace(_TEXT, "q")
        self._layouts = {
            flags: struct.Struct(
                words
                + (f"{len(codes)}q" if flags & HAS_TIMES else "")
                + (f"{self._masks}Q" if flags & HAS_NULLS else "")
            )
            for flags in range(4)
        }

    def rows(self, stored: Iterable[Any]) -> list[EntityRow | None]:
        """Rows from the beginnings of records (bytes or views of them)."""
        unpack, width, since, texts = self._layouts[0].unpack_from, self._width, self._since, self._texts
        absent, one, made = self._absent, self._one, EntityRow
        found: list[EntityRow | None] = []
        append = found.append
        for record in stored:
            if record is None:
                append(absent)
                continue
            words = unpack(record)
            time = words[2]
            # Counts of an empty window have values without a time: only ``_one`` turns the mark into none.
            if words[1] or texts or time == NO_TIME:
                append(one(record, words[1]))
            else:
                append(made(words[_HEAD:], (time,) * width, None, since, words[0], time))
        return found

    def _one(self, record: Any, flags: int) -> EntityRow | None:
        layout, width = self._layouts[flags], self._width
        words = layout.unpack_from(record)
        if words[0] == NEVER:
            return None
        values = list(words[_HEAD : _HEAD + width])
        at, end = _HEAD + width, layout.size
        for place in self._texts:
            length = values[place]
            values[place] = str(record[end : end + length], "utf-8")
            end += length
        times: tuple[int | None, ...] = (None if words[2] == NO_TIME else words[2],) * width
        if flags & HAS_TIMES:
            times = tuple([None if time == NO_TIME else time for time in words[at : at + width]])
            at += width
        if flags & HAS_NULLS:
            for place in range(width):
                if not words[at + place // 64] >> place % 64 & 1:
                    values[place] = None
        return EntityRow(tuple(values), times, None, self._since, words[0], oldest_of(values, times))

    def after(self, record: bytes) -> bytes:
        """Rest of a record after its row."""
        words = self._layouts[0].unpack_from(record)
        return record[self._layouts[words[1]].size + sum([words[_HEAD + place] for place in self._texts]) :]

    @property
    def nothing(self) -> bytes:
        """The row of something that has none."""
        return struct.pack("<qqq", NEVER, HAS_NULLS, NO_TIME) + bytes(8 * (self._width + self._masks))


def layout_of(meta: SnapshotMeta, evaluator: ViewEvaluator) -> RowLayout | None:
    """Layout of a snapshot's finished rows; ``None`` when it has none. Every entity that it knows has one."""
    if meta.rows is None:
        return None
    absent = None if evaluator.encodes else evaluator.row(NOTHING, (), meta.as_of)
    return RowLayout(meta.rows, meta.as_of, absent)


class PackedRows:
    """The rows of a batch of entities, in columns.

    Attributes:
        sizes: how many words each row is.
        texts: whether texts come after the words.
    """

    def __init__(self, values: pyarrow.RecordBatch, until: Array, plan: ViewPlan, codes: str) -> None:
        """
        Args:
            values: the batch of the file of values.
            until: when each row ceases to hold (microseconds).
        """
        import numpy
        import pyarrow
        import pyarrow.compute as pc

        self._width, self._masks = len(codes), -(-len(codes) // 64)
        self._columns: list[Array] = []
        self._present: list[Array | None] = []
        self._texts: list[tuple[bytes, Array]] = []
        self._times: list[Array] = []
        for name, code in zip(_names(plan), codes, strict=True):
            column = values.column(name)
            self._present.append(column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None)
            if code == _TEXT:
                lengths, content = text_words(column)
                self._texts.append((bytes(content), numpy.concatenate([[0], numpy.cumsum(lengths)])))
                self._columns.append(lengths)
            else:
                if code == "?":
                    column = column.cast(pyarrow.int64())
                filled = pc.fill_null(column, 0) if column.null_count else column
                self._columns.append(filled.to_numpy().view(numpy.int64))
            instants = values.column(f"{name}.event_time").cast(pyarrow.int64())
            self._times.append((pc.fill_null(instants, NO_TIME) if instants.null_count else instants).to_numpy())
        self._differ, self._partly = (numpy.zeros(values.num_rows, dtype=bool) for _ in range(2))
        for times in self._times[1:]:
            self._differ |= times != self._times[0]
        for there in self._present:
            if there is not None:
                self._partly |= ~there
        self._until = until
        self.texts = bool(self._texts)
        self.sizes: Array = _HEAD + self._width * (1 + self._differ) + self._masks * self._partly

    def put(self, words: Array, begins: Array) -> None:
        """Each row's words into an array of them, from where it begins."""

        differ, partly = self._differ, self._partly
        flags = differ * HAS_TIMES + partly * HAS_NULLS
        for place, column in enumerate([self._until, flags, self._times[0], *self._columns]):
            words[begins + place] = column
        at = begins + _HEAD + self._width
        if differ.any():
            for place, column in enumerate(self._times):
                words[at[differ] + place] = column[differ]
            at += self._width * differ
        if partly.any():
            for mask in range(self._masks):
                words[at[partly] + mask] = mask_words(self._present[64 * mask : 64 * mask + 64], len(begins))[partly]

    def rows(self) -> list[bytes]:
        """Every row."""
        import numpy

        begins = numpy.cumsum(self.sizes) - self.sizes
        words = numpy.zeros(int(self.sizes.sum()), dtype=numpy.int64)
        self.put(words, begins)
        rows = sliced(words, numpy.append(begins * 8, words.nbytes))
        for text, places in self._texts:
            rows = [row + part for row, part in zip(rows, sliced(text, places), strict=True)]
        return rows


class ValuesAlong:
    """A snapshot's file of values, read along with its events: both have their entities in the same order, but an
    entity whose events are all old has values alone."""

    def __init__(self, batches: Iterable[pyarrow.RecordBatch], width: int) -> None:
        """
        Args:
            width: how many key columns there are.
        """
        self._batches = iter(batches)
        self._width = width
        self._waiting: list[pyarrow.RecordBatch] = []

    def through(self, keys: list[pyarrow.Array]) -> pyarrow.RecordBatch | None:
        """Every row up to that of the last of these keys; ``None`` when it has none."""
        import pyarrow

        last = [column[len(column) - 1] for column in keys]
        taken, batch = [], None
        while True:
            batch = self._waiting.pop(0) if self._waiting else next(self._batches, None)
            if batch is None:
                return None
            place = self._place(batch, last)
            if place is None:
                taken.append(batch)
                continue
            taken.append(batch.slice(0, place + 1))
            if place + 1 < batch.num_rows:
                self._waiting.insert(0, batch.slice(place + 1))
            return taken[0] if len(taken) == 1 else pyarrow.concat_batches(taken)

    def _place(self, batch: pyarrow.RecordBatch, last: list[Any]) -> int | None:
        import numpy
        import pyarrow.compute as pc

        there = numpy.ones(batch.num_rows, dtype=bool)
        for index, value in enumerate(last):
            there &= pc.equal(batch.column(index), value).to_numpy(zero_copy_only=False)
        found = numpy.flatnonzero(there)
        return int(found[0]) if len(found) else None

    def rest(self) -> Iterable[pyarrow.RecordBatch]:
        """The rows after those."""
        yield from self._waiting
        yield from self._batches
