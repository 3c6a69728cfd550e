"""Drafts of releases: what is tried before there is a release of it. The catalog has no release of a draft."""

from __future__ import annotations

from pathlib import Path

import msgspec

from antiphon.catalog.releases.releases import Bundle, Release
from antiphon.core.errors import InvalidInputError, NotFoundError, SetupError
from antiphon.core.ids import content_hash
from antiphon.definitions.template import template_reads
from antiphon.services.apply.apply import declared_bundle
from antiphon.services.project.store import Store

DRAFT = "draft_"
"""Begins the id of a draft, which no release has."""
_LARGEST_PROMPT = 1_000_000


def draft_of(
    store: Store, application: str, *, release: str | None = None, declared: bool = False, template: str | None = None,
    system: str | None = None,
) -> tuple[Release, list[str]]:  # fmt: skip
    """The release that is to be tried, and notes on it.

    Args:
        release: a release's id. declared: what applying ``definitions.py`` now would release; by default the live one.
        template, system: texts in the place of its prompt's.

    Raises:
        NotFoundError: there is no such release or application, or nothing is live.
        InvalidInputError: the release is of another application, or a template reads what the application has not.
        InvalidDefinitionsError: every mistake of ``definitions.py``.
    """
    if release is not None and declared:
        raise InvalidInputError(
            "A release and the definitions cannot both be tried at once.", where="--draft", next_step="Name one."
        )
    notes: list[str] = []
    if declared:
        bundle, notes = declared_bundle(store, application)
    else:
        base = _base(store, application, release)
        if template is None and system is None:
            return base, notes
        bundle = base.bundle
    prompt = bundle.application.prompt
    if template is not None:
        _check_template(template, bundle)
        prompt = msgspec.structs.replace(prompt, template=template)
    if system is not None:
        prompt = msgspec.structs.replace(prompt, system=system)
    spec = msgspec.structs.replace(bundle.application, prompt=prompt)
    return as_release(store, msgspec.structs.replace(bundle, application=spec)), notes


def as_release(store: Store, bundle: Bundle) -> Release:
    """A bundle as the release that it would be; as the one that it is where there is one."""
    digest, name = content_hash(bundle), bundle.application.name
    releases = store.releases.list(store.scope, name)
    known = next((one for one in releases if one.content_hash == digest), None)
    return known or Release(
        id=f"{DRAFT}{digest[:26]}",
        scope=store.scope,
        number=max((one.number for one in releases), default=0) + 1,
        bundle=bundle,
        content_hash=digest,
        stage="draft",
        author="",
        rationale="",
        created_at=store.database.clock.now(),
    )


def _base(store: Store, application: str, release: str | None) -> Release:
    if release is None:
        live = store.releases.live(store.scope, application)
        if live is None:
            raise NotFoundError(
                f"No release of {application!r} is live.",
                where=str(store.scope),
                next_step="Name one with --release, or try the definitions with --draft.",
            )
        return live
    found = store.releases.get(store.scope, release)
    if found.bundle.application.name != application:
        raise InvalidInputError(
            f"The release {release} is of {found.bundle.application.name}.",
            where="--release",
            next_step=f"See `antiphon releases list {application}`.",
        )
    return found


def prompt_text(path: Path) -> str:
    """The text of a file that is to be a prompt's.

    Raises:
        SetupError: it cannot be read. InvalidInputError: it is no UTF-8, or too large.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}.", next_step="Name a file.") from None
    if len(content) > _LARGEST_PROMPT:
        raise InvalidInputError(f"The prompt has {len(content):,} bytes.", where=str(path), next_step="Shorten it.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidInputError("The prompt is not UTF-8.", where=str(path), next_step="Write it in UTF-8.") from None


def _check_template(text: str, bundle: Bundle) -> None:
    """Refuses a template that reads a feature without a figure, or a key that the entity has not."""
    application = bundle.application
    try:
        reads = template_reads(text)
    except InvalidInputError as error:
        raise InvalidInputError(
            error.what, where=f"template, {error.where}", next_step="Mend the template, and try again."
        ) from None
    figures = {figure.feature.replace("/", "_").replace("-", "_") for figure in application.figures}
    unknown = [f"features.{view}.{name} (line {line})" for view, name, line in reads.features
               if f"{view}.{name}" not in figures]  # fmt: skip
    unknown += [f"entity.{key} (line {line})" for key, line in reads.entity_keys if key not in application.entity_keys]
    unknown += [f"{whole} (line {line})" for whole, line in reads.whole]
    if unknown or not text.strip():
        raise InvalidInputError(
            f"The template reads {', '.join(unknown)}, which {application.name} does not print."
            if unknown else "The template is empty.",
            where="template",
            next_step=f"It sees entity, question and {', '.join(sorted(figures)) or 'no features'}.",
        )  # fmt: skip
