"""The pages Releases, Models, Outcomes and Runs, without a browser: with everything, and with nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import gateway_client
from tests.integration.gateway.learned_desk import LearnedDesk
from tests.integration.learning.joining import SIGNALS, learning_desk
from tests.unit.catalog.examples import DEV, NOON

from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.core.errors import ConflictError
from antiphon.definitions.learning import Rollout
from antiphon.durable.claims import ServedRuns
from antiphon.durable.run import ProgressReport
from antiphon.governance.identity.keys import Keys
from antiphon.learning.outcomes.drift import Drift
from antiphon.learning.outcomes.drift_report import DriftReport
from antiphon.learning.outcomes.submission import OutcomeSubmission

CANARY = Rollout(canary=(5, 50), step_units=50)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LearnedDesk]:
    desk = LearnedDesk(tmp_path)
    yield desk
    desk.close()


def signed_in(desk: LearnedDesk, role: str) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
    key, _ = Keys(desk.database, fakes.SECRET).create("default", f"the-{role}", role)
    return gateway_client(desk.services(), key, page=True)


@pytest.fixture
async def browser(desk: LearnedDesk) -> AsyncIterator[httpx2.AsyncClient]:
    async with signed_in(desk, "engineer") as client:
        yield client


class Form(HTMLParser):
    """The hidden fields and the buttons of the form that acts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.acts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "input" and given.get("type") == "hidden":
            self.fields[given["name"] or ""] = given["value"] or ""
        if tag == "button" and given.get("name") == "act":
            self.acts.append(given["value"] or "")


async def press(client: httpx2.AsyncClient, act: str, reason: str = "because", **changes: str) -> httpx2.Response:
    """Press a button on the page as it is now."""
    form = Form((await client.get("/releases")).text)
    headers = {"sec-fetch-site": changes.pop("site", "same-origin")}
    fields = {**form.fields, "act": act, "reason": reason, **changes}
    return await client.post("/releases", data=fields, headers=headers)


@pytest.mark.parametrize(
    ("path", "next_step"),
    [
        ("/releases", "antiphon apply"),
        ("/models", "antiphon train APP"),
        ("/outcomes", "antiphon apply"),
        ("/runs", "antiphon train APP"),
    ],
)
async def test_where_there_is_nothing_a_page_says_what_to_do(
    browser: httpx2.AsyncClient, path: str, next_step: str
) -> None:
    answer = await browser.get(path)
    assert answer.status_code == 200
    assert next_step in answer.text
    assert answer.text.count("<h1>") == 1
    assert f'<a href="{path}" aria-current="page">' in answer.text


async def test_a_first_release_has_everything_ahead_of_it(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    desk.live(1)
    page = (await browser.get("/releases")).text
    assert "No release was rolled out yet." in page
    assert Form(page).acts == ["rollback"]
    assert "antiphon train desk" in (await browser.get("/models")).text
    outcomes = (await browser.get("/outcomes")).text
    assert "No outcome has arrived." in outcomes
    assert "POST /v1/feedback" in outcomes


async def test_a_canary_is_shown_step_by_step_with_the_evidence(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    rollout = desk.begin(CANARY)
    page = (await browser.get("/releases")).text
    assert "The judge has said nothing yet" in page
    for users in (10, 25, 40):
        desk.expose(rollout, users)
        desk.look()
    page = (await browser.get("/releases")).text
    assert re.search(r'<li class="current" aria-current="step"><b>canary 5 %</b>\s*<small>40 of 50 canary users', page)
    assert '<li class="ahead"><b>canary 50 %</b>' in page
    assert "40 canary users of 50" in page
    assert "of the 100 that roll back" in page
    assert page.count('<polyline class="line harm"') == 1
    assert len(re.findall(r'<circle class="dot harm"', page)) == 3
    assert '<polyline class="line view-4"' in page
    assert "With 300 canary users" in page
    assert "attempt 2 &lt;b&gt;&amp;&lt;/b&gt;" in page
    assert "it is better" in page
    assert Form(page).acts == ["hold", "undo"]


async def test_a_bad_canary_shows_the_decision_that_undid_it(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    rollout = desk.begin(CANARY)
    desk.expose(rollout, 10)
    desk.look()
    desk.expose(rollout, 60, bad=60, first=10)
    desk.look()
    page = (await browser.get("/releases")).text
    assert "Last rollout" in page
    assert '<li class="ended"><b>canary 5 %</b>' in page
    assert re.search(r'<p class="sentence decided-roll_back">.*Rolled back at 5 %: 50 of 70 canary users', page)
    assert page.count('<circle class="decision roll_back"') == 1
    assert 'hx-get="/dashboard/rollout' not in page
    assert Form(page).acts == ["rollback"]


async def test_a_promoted_candidate_has_every_step_behind_it(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    rollout = desk.begin(Rollout(canary=(5,), step_units=50, shadow=0.5, shadow_pairs=20))
    page = (await browser.get("/releases")).text
    assert "0 of 20 pairs with an outcome" in page
    for reason in ("shadow was fine", "canary was fine"):
        desk.transitions.advance(DEV, rollout.id, principal="ada", reason=reason)
    page = (await browser.get("/releases")).text
    assert page.count('<li class="done">') == 3
    assert f"<code>{rollout.candidate}</code>" in page
    assert "promoted release 2" in page


async def test_the_part_that_refreshes_reloads_the_page_once_something_moved(
    desk: LearnedDesk, browser: httpx2.AsyncClient
) -> None:
    rollout = desk.begin(CANARY)
    page = (await browser.get("/releases")).text
    part = re.search(r'hx-get="(/dashboard/rollout[^"]+)"', page)
    assert part is not None
    path = part[1].replace("&amp;", "&")
    answer = await browser.get(path)
    assert "hx-refresh" not in answer.headers
    assert "Steps of the rollout" in answer.text
    assert "<html" not in answer.text
    desk.transitions.hold(DEV, rollout.id, principal="ada", reason="lunch")
    assert (await browser.get(path)).headers["hx-refresh"] == "true"
    async with httpx2.AsyncClient(transport=browser._transport, base_url="http://desk") as stranger:
        assert (await stranger.get(path)).headers["hx-redirect"] == "/login"


async def test_buttons_move_the_rollout_and_leave_evidence(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    rollout = desk.begin(CANARY)
    answer = await press(browser, "hold", "lunch")
    assert (answer.status_code, answer.headers["location"]) == (303, "/releases?application=desk")
    page = (await browser.get("/releases")).text
    assert Form(page).acts == ["resume", "undo"]
    await press(browser, "resume", "back")
    await press(browser, "undo", "users complain")
    assert desk.rollouts.get(DEV, rollout.id).state == "rolled_back"
    moves = desk.rollouts.moves(DEV, rollout.id)
    assert [(move.principal, move.reason) for move in moves[1:]] == [
        ("the-engineer", "lunch"),
        ("the-engineer", "back"),
        ("the-engineer", "users complain"),
    ]
    assert {"rollout.hold", "rollout.resume", "rollout.undo"} <= {entry.action for entry in desk.audit.query(DEV)}
    assert "users complain" in (await browser.get("/releases")).text


async def test_rolling_back_goes_to_the_release_before(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    first, second = desk.live(1), desk.live(2)
    assert desk.releases.live(DEV, "desk") == desk.releases.get(DEV, second.id)
    assert (await press(browser, "rollback", "it is worse")).status_code == 303
    live = desk.releases.live(DEV, "desk")
    assert live is not None
    assert live.id == first.id
    answer = await press(browser, "rollback", "again")
    assert (answer.status_code, "no earlier live release" in answer.text) == (422, True)
    assert 'value="again"' in answer.text


async def test_what_may_not_be_pressed_changes_nothing(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    rollout = desk.begin(CANARY)
    for wanted, status, told in (
        ({"act": "hold", "reason": " "}, 400, "There is no reason."),
        ({"act": "promote"}, 400, "is nothing to do"),
        ({"act": "undo", "seen": f"{rollout.id}.canary.1.going"}, 422, "Something moved"),
        ({"act": "undo", "live": rollout.candidate}, 422, "Something moved"),
        ({"act": "undo", "site": "cross-site"}, 403, "another site"),
    ):
        answer = await press(browser, **wanted)
        assert (answer.status_code, told in answer.text) == (status, True), answer.text
        assert 'role="alert"' in answer.text
    assert desk.rollouts.active(DEV, "desk") == rollout
    async with signed_in(desk, "viewer") as viewer:
        page = (await viewer.get("/releases")).text
        assert "Your key may look" in page
        fields = {"application": "desk", "seen": f"{rollout.id}.canary.0.going", "live": rollout.control}
        answer = await viewer.post("/releases", data={**fields, "act": "undo", "reason": "r"})
        assert answer.status_code == 403
    assert desk.rollouts.active(DEV, "desk") == rollout
    unknown = await browser.get("/releases", params={"application": "gone"})
    assert (unknown.status_code, "Choose one of desk" in unknown.text) == (404, True)


async def test_two_releases_are_compared_by_field(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    rollout = desk.begin(CANARY)
    page = (await browser.get("/releases")).text
    link = re.search(r'href="(/releases/diff\?[^"]+)"', page)
    assert link is not None
    diff = (await browser.get(link[1].replace("&amp;", "&"))).text
    assert "application.owner" in diff
    assert "<pre>owner 1</pre>" in diff
    same = {"before": rollout.control, "after": rollout.control}
    assert "They are the same" in (await browser.get("/releases/diff", params=same)).text
    assert (await browser.get("/releases/diff")).status_code == 404


async def test_models_with_their_gates_and_two_compared(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    desk.train()
    page = (await browser.get("/models")).text
    for told in ("champion", "data_1", "0.750 (0.700 to 0.800)", "0.620 (0.570 to 0.670)", "1 failed", "desk.v1"):
        assert told in page
    assert "&lt;b&gt;above 0.6&lt;/b&gt; is asked for" in page
    shown = (await browser.get("/models/desk.v2")).text
    for told in ("parent", "Reliability", "came true 0.70", "learning rate", "leaked share", "Slices", "JFK"):
        assert told.lower() in shown.lower()
    assert '<polyline class="line view-1"' in (await browser.get("/models/desk.v1")).text
    card = await browser.get("/models/desk.v1/card")
    assert "style-src 'sha256-" in card.headers["content-security-policy"]
    compared = (await browser.get("/models/compare", params={"a": "desk.v1", "b": "desk.v2"})).text
    assert "There are no rows that both answered" in compared
    assert '<th scope="row">rank</th><td>16</td><td>8</td>' in compared
    assert (await browser.get("/models/desk.v9")).status_code == 404
    assert (await browser.get("/models/compare", params={"a": "desk.v1", "b": "x"})).status_code == 404


async def test_drift_is_shown_of_an_application_without_an_outcome(
    desk: LearnedDesk, browser: httpx2.AsyncClient
) -> None:
    desk.live(1, outcome=None)
    desk.declared.known["desk"] = learning_desk(outcome=None)
    page = (await browser.get("/outcomes")).text
    assert "declares no outcome" in page
    assert "tokens of the answer" in page
    assert "antiphon outcomes drift desk --texts" in page
    assert "<h2>Signals</h2>" not in page


async def test_signals_are_shown_by_release_without_an_outcome(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    release = desk.live(1, outcome=None).id
    desk.declared.known["desk"] = learning_desk(outcome=None)
    thumb = OutcomeRecord(
        id="out_1", scope=DEV, application="desk", kind="thumbs", status="joined", value="down", available_at=NOON,
        created_at=NOON, prediction="p1", release=release, role="live", as_of=NOON,
    )  # fmt: skip
    desk.outcomes.add(thumb)
    page = (await browser.get("/outcomes")).text
    assert "<h2>Signals</h2>" in page
    assert re.search(r'<th scope="row">thumbs</th><td class="when">release 1</td>', page)
    assert '<td class="right">100.0 %</td>' in page


async def test_declared_signals_say_how_they_are_sent_until_one_comes_and_what_came_leads_to_its_prediction(
    desk: LearnedDesk, browser: httpx2.AsyncClient
) -> None:
    release = desk.live(1).id
    desk.declared.known["desk"] = learning_desk(signals=SIGNALS)
    page = (await browser.get("/outcomes")).text
    assert "No signal is counted yet" in page
    assert "&#34;outcome&#34;: &#34;resolved&#34;, &#34;value&#34;: &#34;yes&#34;" in page.replace('"', "&#34;")
    assert "<h2>Latest</h2>" not in page
    desk.predict("p1", desk.clock.now(), release=release)
    for prediction in ("p1", "gone"):
        sent = OutcomeSubmission(application="desk", value="yes", outcome="copied", prediction=prediction)
        desk.joiner.take(DEV, "ada", sent)
    page = (await browser.get("/outcomes")).text
    assert "No signal is counted yet" not in page
    # Nobody sends that an answer was not copied: no share of bad ones is said.
    assert '<td class="right">100.0 %</td><td class="right">–</td>' in page
    arrived = f"{desk.clock.now():%Y-%m-%d %H:%M:%S}"
    assert f'<td class="when">{arrived}</td><td><a href="/requests/p1"><code>p1</code></a></td><td>copied</td>' in page
    assert '<span class="soft">gone</span></td><td>copied</td>' in page, "no prediction, no link"
    assert (await browser.get("/requests/p1")).status_code == 200


async def test_what_has_drifted_is_a_warning_on_the_page(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    live = desk.live(1)
    texts = (Drift("what is asked", 0.81, 0.55, 200, 200, "shifted", NOON),)
    desk.keep_drift(
        DriftReport("desk", NOON, live.id, reference_since=NOON, reference_until=NOON, since=NOON, texts=texts)
    )
    page = (await browser.get("/outcomes")).text
    assert '<p class="warning" role="alert">Drift: what is asked since ' in page
    assert f"the first week of release {live.id}" in page


async def test_outcomes_are_counted_scored_and_drawn(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    desk.come_true()
    page = (await browser.get("/outcomes")).text
    assert re.search(r'<th scope="row">Labels</th>\s*<td class="right">60</td>', page)
    assert "60 of 60 labelled" in page
    assert page.count('<th scope="row">release 1</th>') == 2
    assert "2013-04-11" in page
    assert len(re.findall(r'<circle class="dot view-2"', page)) == 3
    assert "Calibration: forecast 0.20" in page
    assert "probability of delayed" in page
    assert "too few" in page


async def test_an_application_without_an_outcome_says_what_to_declare(
    desk: LearnedDesk, browser: httpx2.AsyncClient
) -> None:
    desk.declared.known.pop("desk")
    desk.live(1)
    assert "There is no application &#39;desk&#39;." in (await browser.get("/outcomes")).text


async def test_runs_tell_step_loss_and_time_left(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    desk.runs.submit(DEV, "train", {})
    claimed = desk.runs.claim("worker", ServedRuns("dev"), timedelta(minutes=1))
    assert claimed is not None
    desk.runs.heartbeat(claimed, timedelta(minutes=1), ProgressReport(30, 100, "training: loss 0.412, 3 min left"))
    for path in ("/runs", "/dashboard/runs", "/", "/dashboard/figures"):
        page = (await browser.get(path)).text
        assert "training: loss 0.412, 3 min left" in page, path
        assert '<progress max="100" value="30" aria-label="train: 30 of 100">' in page, path
    desk.runs.fail(claimed, "The disk is <full>.")
    page = (await browser.get("/runs")).text
    assert "The disk is &lt;full&gt;." in page
    assert f'<button name="run" value="{claimed.id}">Retry' in page
    (token,) = set(re.findall(r'name="csrf" value="([^"]+)"', page))
    form = {"csrf": token, "run": claimed.id}
    answer = await browser.post("/runs", data=form, headers={"origin": str(browser.base_url).rstrip("/")})
    assert answer.status_code == 303
    assert desk.runs.get(DEV, claimed.id).status == "queued"
    assert "Retry" not in (await browser.get("/dashboard/runs")).text
    for move, after in (("pause", "paused by"), ("resume", ">Pause")):
        sent = form | {"move": move}
        answer = await browser.post("/runs", data=sent, headers={"origin": str(browser.base_url).rstrip("/")})
        assert answer.status_code == 303
        assert after in (await browser.get("/dashboard/runs")).text
    answer = await browser.post("/runs", data=form, headers={"origin": str(browser.base_url).rstrip("/")})
    assert (answer.status_code, "has not failed" in answer.text) == (ConflictError.http_status, True)
