import pytest

from antiphon.definitions.application import Figure
from antiphon.serving.answering.guards.figures import violations

FIGURES = (
    Figure(feature="congestion.delay_2h", step=5, unit=("minutes", "minute", "min"), roles=("delay", "late")),
    Figure(feature="weather.wind", step=5, unit=("mph",), roles=("wind", "gust")),
    Figure(feature="carrier.late_share", step=5, unit=("%", "percent"), roles=("carrier", "airline")),
    Figure(feature="route.late_share", step=5, unit=("%", "percent"), roles=("route",)),
)
PRINTS = {
    "congestion.delay_2h": "25",
    "weather.wind": "10",
    "carrier.late_share": "20",
    "route.late_share": "30",
}
ENTITY = ("B6 123", "JFK", "2013-04-02")


def judged(text: str, prints: dict[str, str | None] | None = None) -> list[str]:
    return violations(text, FIGURES, PRINTS if prints is None else prints, ENTITY)


@pytest.mark.parametrize(
    "text",
    [
        "Delays at JFK average 25 minutes and the wind blows at 10 mph.",
        "Flight B6 123 may be late: delays run at 25 min.",
        "The carrier runs late 20% of the time; this route 30%.",
        "On this route 30 percent are late, while the airline has 20 percent.",
        "Expect a quiet departure.",
        "No figures, one of the calm days.",
        "Delays average twenty-five minutes.",
        "Over the past two hours delays average 25 minutes.",
    ],
)
def test_passes_what_the_features_say(text: str) -> None:
    assert judged(text) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Delays average 27 minutes.", "prints 25"),
        ("Delays average 10 minutes.", "prints 25"),
        ("The wind is 25 mph.", "prints 10"),
        ("The carrier runs late 30% of the time.", "carrier.late_share prints 20"),
        ("Your flight leaves from gate 12.", "no unit"),
        ("Boarding takes 25 minutes.", "no declared role"),
        ("Delays of twenty minutes are common.", "prints 25"),
        ("Delays average -25 minutes.", "prints 25"),
        ("Delays average 25.5 minutes.", "prints 25"),
        ("Delays average 1,025 minutes.", "prints 25"),
        ("Flight B6 124 has delays of 25 minutes.", "no unit"),
        ("Delays average twenty-four minutes.", "prints 25"),
        ("Delays average a hundred and twenty-five minutes.", "prints 25"),
        ("Delays average 25–30 minutes.", "no unit"),
        ("Delays of two hours are common.", "no unit"),
        ("Expect a delay of half an hour.", "no unit"),
        ("Delays of 1 hour are common.", "no unit"),
        ("Delays average ２５0 minutes.", "prints 25"),
    ],
)
def test_refuses_what_they_do_not(text: str, reason: str) -> None:
    found = judged(text)
    assert found
    assert reason in "; ".join(found)


def test_a_figure_without_value_may_not_be_stated() -> None:
    found = judged("The wind blows at 10 mph.", {**PRINTS, "weather.wind": None})
    assert found == ["weather.wind has no value, the text says 10"]


def test_an_entity_key_does_not_excuse_a_figure() -> None:
    entity = ("40", "JFK")
    assert violations("Flight 40 may be late: delays run at 25 minutes.", FIGURES, PRINTS, entity) == []
    found = violations("Flight 40 may be late: delays run at 40 minutes.", FIGURES, PRINTS, entity)
    assert found == ["congestion.delay_2h prints 25, the text says 40"]


def test_a_longer_key_is_masked_before_the_shorter_one_inside_it() -> None:
    assert violations("Flight 12-345 leaves.", FIGURES, PRINTS, ("12", "12-345")) == []


GERMAN = (
    Figure(feature="congestion.delay_2h", step=0.5, unit=("Minuten", "Minute", "Min."), roles=("Verspätung", "spät")),
    Figure(feature="orders.value", step=0.5, unit=("Euro", "€"), roles=("Bestellwert",)),
)
FRENCH = (Figure(feature="congestion.delay_2h", step=1, unit=("minutes", "minute"), roles=("retard",)),)
JAPANESE = (Figure(feature="congestion.delay_2h", step=1, unit=("分",), roles=("遅れ",)),)


@pytest.mark.parametrize(
    ("locale", "figures", "print_", "text"),
    [
        ("de", GERMAN, "25.5", "Die Verspätung beträgt 25,5 Minuten."),
        ("de", GERMAN, "25", "Die Verspätung beträgt fünfundzwanzig Minuten."),
        ("de", GERMAN, "1", "Die Verspätung beträgt eine Minute."),
        ("de", GERMAN, "125", "Die Verspätung beträgt hundertfünfundzwanzig Minuten."),
        ("de", GERMAN, "1025", "Die Verspätung beträgt 1.025 Minuten."),
        ("de", GERMAN, "25", "Ein kurzer Hinweis: die Verspätung liegt bei 25 Min."),
        ("fr", FRENCH, "1025", "Le retard est de 1 025 minutes."),
        ("fr", FRENCH, "1025", "Le retard est de 1\u202f025 minutes."),
        ("fr", FRENCH, "71", "Le retard est de soixante et onze minutes."),
        ("fr", FRENCH, "1", "Le retard est d'une minute."),
        ("ja", JAPANESE, "25", "遅れは25分です。"),
        ("de_CH", GERMAN, "1025.5", "Die Verspätung beträgt 1'025.5 Minuten.".replace("'", "’")),
    ],
)
def test_figures_are_read_as_the_locale_writes_them(
    locale: str, figures: tuple[Figure, ...], print_: str, text: str
) -> None:
    assert violations(text, figures, {"congestion.delay_2h": print_}, (), locale) == []


@pytest.mark.parametrize(
    ("locale", "figures", "print_", "text"),
    [
        ("de", GERMAN, "25.5", "Die Verspätung beträgt 25.5 Minuten."),  # no number in German
        ("de", GERMAN, "255", "Die Verspätung beträgt 25,5 Minuten."),
        ("de", GERMAN, "25", "Die Verspätung beträgt sechsundzwanzig Minuten."),
        ("de", GERMAN, "25", "Die Verspätung beträgt zwei Stunden."),
        ("de", GERMAN, "5", "Die Verspätung beträgt zwanzigtausend fünf Minuten."),
        ("fr", FRENCH, "25", "Le retard est de vingt-six minutes."),
        ("fr", FRENCH, "25", "Le retard est de 1 025 minutes."),
        ("ja", JAPANESE, "25", "遅れは26分です。"),
        ("en", FIGURES[:1], "25", "Delays average 2,5 minutes."),
        ("en", FIGURES[:1], "5", "Delays average .5 minutes."),
        ("en", FIGURES[:1], "5", "Delays average twenty\u200bfive minutes."),
        ("en", FIGURES[:1], "500", "Delays average twelve thousand five hundred minutes."),
    ],
)
def test_figures_of_other_values_and_other_writings_are_refused(
    locale: str, figures: tuple[Figure, ...], print_: str, text: str
) -> None:
    assert violations(text, figures, {"congestion.delay_2h": print_}, (), locale)


def test_an_unfinished_text_is_judged_like_the_whole_at_the_ends_of_its_sentences() -> None:
    text = "Delays average 25 minutes. The wind is 25 mph. Boarding goes on."
    assert judged(text[:27]) == []
    assert judged(text[:47])
