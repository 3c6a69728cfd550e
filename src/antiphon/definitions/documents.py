"""Documents: texts from files or a table, cut into chunks that are embedded, published and retrieved like features.

Invariant: documents are a feature view whose entities are chunks, so snapshots, publications, gates, policy, refreshes,
rollbacks and retention are those of views. The definition version covers the chunking and the model: a release that
pins another one goes on retrieving from the index that was made for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from antiphon.definitions.documents_spec import DocumentsSpec
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.definitions.entity import NAME, Entity
from antiphon.definitions.expression import col
from antiphon.definitions.feature import embed, last
from antiphon.definitions.feature_view import FeatureView, FeatureViewSpec
from antiphon.definitions.place import CodeLocation, caller
from antiphon.definitions.source import Source

CHUNK, DOCUMENT, TITLE, TEXT, VECTOR = "chunk", "document", "title", "text", "vector"
"""The key of a chunk, and the features that every chunk has."""
OWN_FEATURES = (DOCUMENT, TITLE, TEXT, VECTOR)
MOST_RETRIEVED = 50
"""Most chunks of one retrieval."""
_ENCODINGS = ("utf-8", "utf-16", "latin-1", "windows-1252")


class Documents(FeatureView):
    """Declared documents, to be named by the :class:`Retrieval` of an application.

    Args:
        name: lower-case letters, digits and underscores.
        path: a folder with text, Markdown, HTML and PDF files, read with its subfolders, or a pattern such as
            ``handbook/*.md``; of an object store ``s3://BUCKET/FOLDER/``. A relative path starts at the project's
            folder. A document's id is its path below the folder.
        table: a :meth:`Source.table` instead, a document a row; the row of each id is its present text.
        text, id, title, attributes: columns of the table. Retrievals may filter by ``attributes``.
        refresh: how often the source is read again: an update is retrieved within it.
        model: name of the embedding model, or an :class:`EmbeddingModel`.
        chunk, overlap: most characters of a chunk, and of how many of them the next one begins.
        encoding: of text files: ``utf-8``, ``utf-16``, ``latin-1`` or ``windows-1252``.
        unreadable: ``block`` keeps the earlier snapshot while any document cannot be read; ``skip`` publishes the
            others and says which are left out.
        access_key_variable, secret_key_variable: environment variables with the object store's credentials.
        owner, sensitivity, purposes, quality, embargo: as of :func:`feature_view`.

    Example::

        handbook = Documents("handbook", path="handbook/", refresh="15m")
    """

    def __init__(
        self,
        name: str,
        *,
        path: str | None = None,
        table: Source | None = None,
        text: str | None = None,
        id: str | None = None,
        title: str | None = None,
        attributes: Sequence[str] = (),
        refresh: str | None = None,
        model: str | EmbeddingModel = "minilm-l6-v2",
        chunk: int = 800,
        overlap: int = 80,
        encoding: str = "utf-8",
        unreadable: Literal["block", "skip"] = "block",
        access_key_variable: str | None = None,
        secret_key_variable: str | None = None,
        **options: Any,
    ) -> None:
        place = caller()
        self.table = table
        self.declared = DocumentsSpec(
            chunk, overlap, encoding, unreadable, text, id, title,
            (attributes,) if isinstance(attributes, str) else tuple(attributes),
        )  # fmt: skip
        source = Source(
            place, "table", name,
            path=path, event_time="event_time", available_at=None, event_id=None, where=None,
            access_key_variable=access_key_variable, secret_key_variable=secret_key_variable,
            documents=self.declared, over=() if table is None else (table,),
        )  # fmt: skip
        features = {
            DOCUMENT: last(col.document),
            TITLE: last(col.title),
            TEXT: last(col.text),
            VECTOR: embed(col.text, model=model),
        }
        features |= {one: last(getattr(col, one)) for one in self.declared.attributes if isinstance(one, str)}
        entity = Entity(f"{name}_chunk", keys=[CHUNK])
        given = options if refresh is None else {"refresh": refresh, **options}
        super().__init__(place, name, entity, source, given, dict(features))

    def mistakes(self) -> Iterator[tuple[CodeLocation, str]]:
        """Yields the mistakes of the declaration; the table is checked by itself."""
        found = list(self._own_mistakes())
        yield from ((self.place, f"documents {self.name!r}: {text}") for text in found)
        if not found:
            yield from super().mistakes()

    def _own_mistakes(self) -> Iterator[str]:
        declared, path = self.declared, self.source.options["path"] if isinstance(self.source, Source) else None
        if not isinstance(self.name, str) or not NAME.match(self.name):
            yield "a name is lower-case letters, digits and underscores."
        if (path is None) == (self.table is None):
            yield "name either a path or a table."
        if self.table is None:
            if declared.text or declared.id or declared.title or declared.attributes:
                yield "text, id, title and attributes are columns of a table."
        elif not isinstance(self.table, Source) or self.table.kind != "table" or self.table.options.get("documents"):
            yield f"table must be a Source.table, not {self.table!r}."
        elif not (isinstance(declared.text, str) and isinstance(declared.id, str)):
            yield "a table needs the columns text= and id=."
        for one in declared.attributes:
            if not isinstance(one, str) or not NAME.match(one) or one in (*OWN_FEATURES, CHUNK, "event_time"):
                yield f"attributes: {one!r} is no column's name, or the name of what every chunk has."
        if not isinstance(declared.chunk, int) or not 100 <= declared.chunk <= 20_000:
            yield f"chunk is a number of characters from 100 to 20000, not {declared.chunk!r}."
        elif not isinstance(declared.overlap, int) or not 0 <= declared.overlap <= declared.chunk // 2:
            yield f"overlap is a number of characters from 0 to half of a chunk, not {declared.overlap!r}."
        if declared.encoding not in _ENCODINGS:
            yield f"encoding is one of {', '.join(_ENCODINGS)}, not {declared.encoding!r}."
        if declared.unreadable not in ("block", "skip"):
            yield f"unreadable is 'block' or 'skip', not {declared.unreadable!r}."


class RetrievalSpec(msgspec.Struct, frozen=True):
    """A declared retrieval as a value; see :class:`Retrieval`. ``model`` embeds the query."""

    name: str
    view: str
    definition_version: str
    query: str
    k: int
    filters: dict[str, str]
    model: EmbeddingModel
    least: float = -1.0


class Retrieval:
    """The chunks of documents that are nearest to a query, for the prompt of an application.

    Its template sees them as ``retrieved.NAME``, the nearest first, each with ``number`` (1, 2 …, counted over all
    retrievals of the request), ``id``, ``document``, ``title`` and ``text``.

    Args:
        documents: the :class:`Documents`.
        query: Jinja2 over ``question``, ``entity`` and ``inputs``; its text is what is looked for.
        k: most chunks.
        filters: ``document`` or an attribute to the value that chunks must have, Jinja2 each: ``{"team": "{{
            entity.team }}"}``. ``document`` may be a pattern (``returns/*``).
        least: least similarity, from -1 to 1, of a chunk.
        name: of the retrieval in the template; the documents' name by default.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        query: str = "{{ question }}",
        k: int = 4,
        filters: Mapping[str, str] | None = None,
        least: float = -1.0,
        name: str | None = None,
    ) -> None:
        self.documents: Any = documents  # as written, until it is checked
        self.query = query
        self.k = k
        self.filters = dict(filters or {})
        self.least = least
        self.name = name if name is not None else getattr(documents, "name", "")

    def spec(self, root: Path | None = None) -> RetrievalSpec:
        """The frozen value; ``root`` is where a relative source path starts."""
        view: FeatureViewSpec = self.documents.spec(root)
        return RetrievalSpec(
            self.name, view.name, view.definition_version, self.query, self.k, dict(sorted(self.filters.items())),
            view.models[VECTOR], self.least,
        )  # fmt: skip

    def mistakes(self) -> Iterator[str]:
        """Yields the mistakes that can be seen without the application, a sentence each."""
        if not isinstance(self.documents, Documents):
            yield f"{self.documents!r} is not Documents."
            return
        if not isinstance(self.name, str) or not NAME.match(self.name):
            yield f"{self.name!r} is no name; lower-case letters, digits and underscores make one."
        if not isinstance(self.k, int) or not 1 <= self.k <= MOST_RETRIEVED:
            yield f"k is from 1 to {MOST_RETRIEVED}, not {self.k!r}."
        if not isinstance(self.least, (int, float)) or not -1 <= self.least <= 1:
            yield f"least is a similarity from -1 to 1, not {self.least!r}."
        known = (DOCUMENT, *self.documents.declared.attributes)
        for one, value in self.filters.items():
            if one not in known:
                yield f"filters: chunks of {self.documents.name!r} have no {one!r}; they have {', '.join(known)}."
            if not isinstance(value, str) or not value:
                yield f"filters: {one} must be a text, not {value!r}."
