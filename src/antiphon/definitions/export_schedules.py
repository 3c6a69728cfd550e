"""The declaration of exports as scheduled work."""

from __future__ import annotations

from typing import Any

from antiphon.definitions.application import Application
from antiphon.definitions.conditions import Condition
from antiphon.definitions.exports import ROWS_PER_FILE, ExportWork, file_format
from antiphon.definitions.place import caller
from antiphon.definitions.schedules import DeclaredSchedule, Precompute, answers_key
from antiphon.definitions.workflows import asset_key


class Export(DeclaredSchedule):
    """A schedule of exports: rows are written to files for other tools.

    Args:
        source: an application, whose predictions are exported with their receipts' ids, a file or folder for each day
            (UTC) that is over; a feature view or documents, or ``"view/NAME"``, whose published values are; or a
            declared :class:`Precompute`, whose stored answers are.
        to: a file ``.parquet``, ``.csv`` or ``.jsonl``, or with ``/`` at its end a folder, from the project's folder;
            or ``s3://BUCKET/KEY``. ``{day}`` and ``{version}`` in it stand for those of the rows.
        when: the condition under which an export is due, such as ``cron("0 5 * * *")`` or ``stale()``; without one it
            is begun by hand.
        rows: of an application ``predictions``, or ``dataset``: the training set that was built last.
        format: of the files of a folder; Parquet by default.
        since: the first day of predictions; by default that of the first one.
        keep: files of so many versions stay, older ones are removed; nothing is removed by default.
        rows_per_file: rows that are read for one file of a folder, at most.
        purpose: as policies know it; the application's own by default.
        clear: write clear text although the project is encrypted.
        name: of the schedule; ``export-APPLICATION`` or ``export-VIEW`` by default.
        settle, catch_up, value, debounce: as of :class:`Retrain`.

    Example::

        Export(triage, to="exports/triage-{day}.parquet", when=cron("0 5 * * *"))
    """

    def __init__(
        self,
        source: Any,
        *,
        to: str,
        when: Condition | None = None,
        rows: str = "predictions",
        format: str | None = None,
        since: str | None = None,
        keep: int | None = None,
        rows_per_file: int = ROWS_PER_FILE,
        purpose: str = "",
        clear: bool = False,
        name: str | None = None,
        settle: str = "1m",
        catch_up: str = "1d",
        value: float = 1.0,
        debounce: str | None = None,
    ) -> None:
        self.source = source
        asset, application, named = _exported(source, rows)
        kind: Any = file_format(to, format)
        work = ExportWork(asset, to, kind, since, keep, rows_per_file, purpose, clear)
        super().__init__(
            caller(), "export", application, work, name=f"export-{named}" if name is None else name, when=when,
            settle=settle, catch_up=catch_up, value=value, debounce=debounce,
        )  # fmt: skip


def _exported(source: Any, rows: str) -> tuple[str, str, str]:
    """The key of what is exported, empty where it is nothing; its application; and a name for its schedule."""
    if isinstance(source, Precompute):
        return answers_key(source.name, source.application_name), source.application_name, source.name
    view = source if isinstance(source, str) and source.startswith("view/") else asset_key(source)
    if view is not None and view.startswith("view/"):
        return view, "", view.removeprefix("view/").replace("_", "-")
    if not isinstance(source, Application | str):
        return "", "", ""
    application = source if isinstance(source, str) else source.name
    if rows == "dataset":
        return f"dataset/{application}/training", application, f"{application}-dataset"
    return f"{rows}/{application}", application, application
