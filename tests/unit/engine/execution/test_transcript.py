from antiphon.engine.execution.sequence import Transcript


def shown(transcript: Transcript) -> str:
    return transcript.text[: transcript.releasable]


def test_a_character_is_shown_when_all_its_bytes_are_there() -> None:
    transcript = Transcript()
    snow = "☃".encode()
    transcript.push(b"a" + snow[:1])
    assert shown(transcript) == "a"
    transcript.push(snow[1:])
    assert shown(transcript) == "a☃"


def test_bytes_that_never_become_a_character_are_replaced_at_the_end() -> None:
    transcript = Transcript()
    transcript.push(b"a\xe2\x98")
    transcript.finish()
    assert shown(transcript) == "a\ufffd"


def test_a_stop_sequence_is_never_half_shown() -> None:
    transcript = Transcript(["END", "\n\n"])
    transcript.push(b"one E")
    assert shown(transcript) == "one "
    transcript.push(b"N")
    assert shown(transcript) == "one "
    transcript.push(b"T\n")
    assert shown(transcript) == "one ENT"
    transcript.push(b"\nmore")
    assert transcript.stopped
    assert shown(transcript) == transcript.text == "one ENT"


def test_what_waited_for_a_stop_is_shown_at_the_end() -> None:
    transcript = Transcript(["END"])
    transcript.push(b"the EN")
    transcript.finish()
    assert shown(transcript) == "the EN"
    assert not transcript.stopped


def test_the_earliest_stop_wins() -> None:
    transcript = Transcript(["c", "b"])
    transcript.push(b"abc")
    assert transcript.text == "a"
