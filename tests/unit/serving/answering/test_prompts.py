import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.catalog import examples

from antiphon.core.errors import InvalidInputError, PromptFailedError
from antiphon.definitions.prompt import Prompt
from antiphon.engine.api.messages import ChatTurn, ModelDescription
from antiphon.serving.answering import prompts
from antiphon.testing.scripted_engine import MODEL


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ prompts.__globals__ }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ ('%' ~ '999999999' ~ 'd') % 1 }}",
        "{{ names.append('x') }}",
        "{{ names.clear() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ lipsum() }}",
        "{{ names | random }}",
    ],
)
def test_a_template_does_not_leave_its_sandbox(template: str) -> None:
    names = ["a", "b"]
    with pytest.raises(InvalidInputError, match="application desk, prompt"):
        prompts.render(template, {"name": "x", "names": names}, "application desk, prompt")
    assert names == ["a", "b"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}spam{% endfor %}{% endfor %}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_cannot_hold_the_process_up(template: str) -> None:
    with pytest.raises(InvalidInputError):
        prompts.render(template, {}, "prompt")


@pytest.mark.parametrize(
    "template",
    ["{{ nothing }}", "{{ name.nothing }}", "{{ name + 1 }}", "{{ 1 / 0 }}", "{{", "{% if %}", "{{ x | nope }}"],
)
def test_what_a_template_does_wrong_is_its_own_error(template: str) -> None:
    with pytest.raises(InvalidInputError, match="The template fails"):
        prompts.render(template, {"name": "x"}, "prompt")


def test_a_release_whose_template_fails_is_no_mistake_of_its_callers() -> None:
    broken = examples.application("desk", prompt=Prompt(template="{{ [][3] }}"))
    with pytest.raises(PromptFailedError, match="The template fails") as failed:
        prompts.question_text(broken, {})
    assert (failed.value.of_platform, failed.value.http_status) == (True, 422)


def test_numbers_may_still_be_computed_with() -> None:
    assert prompts.render("{{ 3 * 4 }} {{ 7 % 4 }}", {}, "prompt") == "12 3"


def model(template: str = MODEL.chat_template, special: tuple[str, ...] = MODEL.special_tokens) -> ModelDescription:
    return msgspec.structs.replace(MODEL, chat_template=template, special_tokens=special)


@given(st.text(alphabet="<|im_startendbc>/ ", max_size=60))
def test_no_special_token_survives(content: str) -> None:
    text = prompts.neutral(model(special=("<|im_start|>", "<|im_end|>", "</s>", "<s>")), content)
    assert not any(token in text for token in ("<|im_start|>", "<|im_end|>", "</s>", "<s>"))
    assert text.replace(" ", "") == content.replace(" ", ""), "nothing but spaces is added"


def test_breaking_one_token_does_not_make_another() -> None:
    tokens = ("<|im_end|>", "a b")
    assert prompts.neutral(model(special=tokens), "ab <|im_<|im_end|>end|>").count("<|im_end|>") == 0
    assert prompts.neutral(model(special=("ab", "a b")), "ab") == "a  b"


@pytest.mark.parametrize("token", ["  ", "\n\n", " x", "x "])
def test_a_token_that_a_space_does_not_break_does_not_hang(token: str) -> None:
    content = f"one{token}two"
    assert token in prompts.neutral(model(special=(token,)), content) or token == "\n\n"


def test_a_chat_template_that_refuses_says_why() -> None:
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('the user begins') }}{% endif %}ok"
    assert prompts.chat(model(template), [ChatTurn("user", "Hi")]) == "ok"
    with pytest.raises(InvalidInputError, match="the user begins"):
        prompts.chat(model(template), [ChatTurn("system", "Hi")])


def test_a_chat_template_may_ask_for_names_that_are_not_there() -> None:
    template = "{% if tools %}{{ tools }}{% endif %}{{ bos_token }}{{ messages[0].content }}"
    assert prompts.chat(model(template), [ChatTurn("user", "Hi")]) == "<|im_start|>Hi"
