"""The pages *Prompts*: versions and their requests, trials side by side and blind, annotations, regression sets.

Invariant: from a complaint to a regression case are three actions: open the prediction, make a case, save.
"""

from __future__ import annotations

from urllib.parse import quote, urlencode

from starlette.responses import RedirectResponse, Response

from antiphon.catalog.learning.regressions import Expectation
from antiphon.core.errors import AntiphonError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.gateway.admin.predictions import detail
from antiphon.gateway.admin.workbench import expectation, kind_of, require_whole, split_of
from antiphon.gateway.dashboard.pages import SAFE, PageCall
from antiphon.gateway.dashboard.release_pages import applications, chosen
from antiphon.learning.workbench.comparison import AnswerPair, shown_first, text_difference
from antiphon.learning.workbench.expectations import in_words
from antiphon.learning.workbench.submission import AnnotationSubmission
from antiphon.learning.workbench.trials import SampleQuery
from antiphon.services.learning.workbench import LIVE
from antiphon.services.learning.workbench_orders import TrialOrder

_SHOWN = 40
_LONGEST_SHOWN = 4_000
"""Characters of a text that a form is filled in with; a blank one is the text that was given."""


def prompts(call: PageCall) -> Response:
    """An application's prompt versions, trials, complaints, agreement of annotators and regression sets."""
    known = applications(call)
    application = chosen(known, call.query.get("application") or None)
    if application is None:
        return call.render("prompts.html", page="prompts", applications=known, application=None)
    learning, scope, sets = call.services.learning, call.scope, call.services.learning.regression_sets
    workbench, versions = learning.workbench, [sets.version(scope, name) for name in sets.names(scope, application)]
    whole = call.services.access.records.may_read_application(scope, call.principal, application)
    return call.render(
        "prompts.html",
        page="prompts",
        applications=known,
        application=application,
        versions=workbench.versions(scope, application),
        trials=learning.trials.list(scope, application, limit=_SHOWN),
        complaints=workbench.complaints(scope, application) if whole else [],
        agreement=workbench.agreement(scope, application) if whole else (),
        sets=[(one, next(iter(sets.runs(scope, one.name, limit=1)), None)) for one in versions],
    )


def prompt(call: PageCall) -> Response:
    """One prompt version, and the requests that users were answered with it."""
    return _prompt(call)


def try_prompt(call: PageCall) -> Response:
    """Order a trial of a prompt as it was changed on the page; then the runs."""
    form, orders = call.form, call.services.learning.workbench_orders
    try:
        found = call.services.learning.workbench.version(call.scope, call.path["version"])
        size = form.get("sample", "")
        sample = SampleQuery(size=int(size) if size.isascii() and size.isdigit() else 0)
        # A browser sends lines that end with two characters, which no prompt has.
        texts = {name: form.get(name, "").replace("\r\n", "\n") for name in ("template", "system")}
        order = TrialOrder(found.application, found.releases[0], **texts, sample=sample)
        orders.place_trial(call.scope, call.principal, order)
    except AntiphonError as error:
        return _prompt(call, error)
    return RedirectResponse("/runs", 303, headers=SAFE)


def trial(call: PageCall) -> Response:
    """A trial beside what users got, or beside another: figures, changes, and the texts side by side, or blind."""
    return _trial(call)


def prefer(call: PageCall) -> Response:
    """Record which of two texts that were shown blind is better; then the page again."""
    workbench, name = call.services.learning.workbench, call.path["trial"]
    against = call.form.get("against", LIVE)
    try:
        shown = workbench.comparison(call.scope, against, name)
        request = call.form.get("request", "")
        workbench.prefer(call.scope, call.principal, shown, request, call.form.get("choice", ""))
    except AntiphonError as error:
        return _trial(call, error)
    target = f"/trials/{quote(name)}?" + urlencode({"blind": "1", "against": against})
    return RedirectResponse(target, 303, headers=SAFE)


def annotate(call: PageCall) -> Response:
    """Record an annotation of a prediction; then its page again."""
    prediction, form = call.path["prediction"], call.form
    act = form.get("act", "")
    kind = "thumbs" if act in ("up", "down") else form.get("kind", "")
    value = act if kind == "thumbs" else form.get("value", "")
    try:
        sent = AnnotationSubmission(
            prediction, kind_of(kind), value, form.get("criterion", ""), note=form.get("note", "")
        )
        call.services.learning.workbench.annotate(call.scope, call.principal, sent)
    except AntiphonError as error:
        return annotated_prediction(call, error)
    return RedirectResponse(f"/requests/{quote(prediction)}", 303, headers=SAFE)


def annotated_prediction(call: PageCall, problem: AntiphonError | None = None) -> Response:
    """One prediction with its receipt and texts, what annotators said of it, and the cases made from it."""
    found = detail(call, call.path["prediction"])
    learning, receipt = call.services.learning, found.receipt
    return call.render(
        "prediction.html",
        problem,
        page="requests",
        found=found,
        receipt=receipt,
        version=learning.workbench.version_of(call.scope, receipt),
        annotations=learning.workbench.annotations(call.scope, receipt.prediction),
        outcomes=learning.outcomes.of_prediction(call.scope, receipt.prediction),
        cases=learning.regression_sets.of_prediction(call.scope, receipt.prediction),
        may_annotate=call.may("feedback", f"application/{receipt.application}"),
        may_add=call.may("train", f"application/{receipt.application}"),
        form=call.form,
    )


def case_form(call: PageCall) -> Response:
    """The form that turns a prediction into a case, filled in with what is known of it."""
    return _case_form(call)


def add_case(call: PageCall) -> Response:
    """Save a case; then the set that it is in."""
    prediction, form = call.path["prediction"], call.form
    try:
        kind, value = form.get("expect", ""), form.get("value", "")
        if kind == "not_text" and not value:
            value = detail(call, prediction).text or ""
        expect = [expectation(kind, value, form.get("property", ""))]
        name = form.get("set", "")
        call.services.learning.regressions.add_case(
            call.scope, call.principal, prediction, name, expect, split=split_of(form.get("split", "visible")),
            note=form.get("note", ""),
        )  # fmt: skip
    except AntiphonError as error:
        return _case_form(call, error)
    return RedirectResponse(f"/regressions/{quote(name)}", 303, headers=SAFE)


def regression_set(call: PageCall) -> Response:
    """One regression set: its cases as they are now, and the latest runs."""
    sets, name = call.services.learning.regression_sets, call.path["set"]
    version = sets.version(call.scope, name)
    require_whole(call, version.application)
    shown = [
        (name, version.cases[name], one, [] if one is None else [in_words(each) for each in one.expect])
        for name, one in sets.cases(version).items()
    ]
    return call.render(
        "regression_set.html", page="prompts", version=version, cases=shown, runs=sets.runs(call.scope, name, limit=10)
    )


def _prompt(call: PageCall, problem: AntiphonError | None = None) -> Response:
    workbench = call.services.learning.workbench
    found = workbench.version(call.scope, call.path["version"])
    receipts = workbench.requests(call.scope, found, limit=_SHOWN)
    may = call.may("train", f"application/{found.application}")
    return call.render("prompt.html", problem, page="prompts", found=found, receipts=receipts, may=may, form=call.form)


def _case_form(call: PageCall, problem: AntiphonError | None = None) -> Response:
    found = detail(call, call.path["prediction"])
    learning, receipt, form = call.services.learning, found.receipt, call.form
    bundle = learning.workbench.bundle(call.scope, receipt.release)
    if bundle is None:
        raise NotFoundError(
            "A plain model has no regression sets.", where=receipt.prediction, next_step="Declare an application."
        )
    suggested = next(iter(learning.regressions.suggestion(call.scope, receipt)), None)
    first = suggested or Expectation("not_text", found.text or "")
    names = learning.regression_sets.names(call.scope, receipt.application)
    properties = (bundle.application.schema or {}).get("properties", {})
    return call.render(
        "case.html",
        problem,
        page="requests",
        found=found,
        receipt=receipt,
        names=names,
        selected={
            "set": form.get("set") or (names[0] if names else f"{receipt.application}-regressions"),
            "expect": form.get("expect", first.kind),
            "value": form.get("value", first.value if len(first.value) <= _LONGEST_SHOWN else ""),
            "property": form.get("property", first.property),
            "split": form.get("split", "visible"),
            "note": form.get("note", ""),
        },
        suggested=None if suggested is None else in_words(suggested),
        labels={name: said["enum"] for name, said in properties.items() if "enum" in said},
        metrics=list(bundle.application.user_metrics),
        guards=[guard.label for guard in bundle.application.guards],
        may=call.may("train", f"application/{receipt.application}"),
    )


def _trial(call: PageCall, problem: AntiphonError | None = None) -> Response:
    workbench, name = call.services.learning.workbench, call.path["trial"]
    given = call.query if call.form.get("request") is None else call.form
    against, blind = given.get("against", LIVE), bool(given.get("blind"))
    trial = call.services.learning.trials.get(call.scope, name)
    require_whole(call, trial.application)
    shown = workbench.comparison(call.scope, against, name)
    both = [pair for pair in shown.pairs if pair.first is not None and pair.second is not None]
    said = workbench.preferred_by(call.scope, call.principal, both) if blind else set()
    pairs = [pair for pair in both if pair.request not in said]
    texts = workbench.texts(call.scope, [one for pair in pairs for one in (pair.first, pair.second)])
    sides = []
    for pair in sorted(pairs, key=lambda one: content_hash(one.request)):
        one, other = texts.get(pair.first or ""), texts.get(pair.second or "")
        if one is None or other is None or (blind and one == other):
            continue
        if not blind:
            sides.append((pair, one, other, text_difference(one, other)))
            continue
        swapped = not shown_first(pair.request, shown.first, shown.second)
        sides.append((pair, other, one, ()) if swapped else (pair, one, other, ()))
        if len(sides) == 1:
            break
    return call.render(
        "trial.html",
        problem,
        page="prompts",
        trial=trial,
        shown=shown,
        against=against,
        blind=blind,
        done=len(said),
        left=len(pairs),
        sides=sides[:_SHOWN],
        preferences=workbench.preferences(call.scope, shown),
        questions=_questions(call, [one[0] for one in sides[:_SHOWN]]),
    )


def _questions(call: PageCall, pairs: list[AnswerPair]) -> dict[str, str | None]:
    predictions = call.services.predictions
    found: dict[str, str | None] = {}
    for pair in pairs:
        receipt = predictions.receipts.get(call.scope, pair.request)
        try:
            blob = receipt.question_blob
            found[pair.request] = predictions.texts.get(call.scope, blob).decode() if blob else None
        except NotFoundError:
            found[pair.request] = None
    return found
