import pytest

from antiphon.core import errors
from antiphon.engine.api.messages import RequestFailure


@pytest.mark.parametrize(
    "error",
    [
        errors.PromptTooLongError("too long", where="prompt", next_step="Shorten it."),
        errors.UnsatisfiableSchemaError("cannot be met"),
        errors.OverloadedError("later"),
        errors.UnavailableError("away"),
        errors.EngineError("broken"),
        errors.NotFoundError("absent"),
        errors.InvalidInputError("wrong"),
    ],
)
def test_an_error_keeps_its_class_and_its_words(error: errors.AntiphonError) -> None:
    back = RequestFailure.of("r1", error).error
    assert type(back) is type(error)
    assert str(back) == str(error)


def test_an_unknown_code_is_a_failure_of_the_engine() -> None:
    assert type(RequestFailure("r1", "from_the_future", "what").error) is errors.EngineError
