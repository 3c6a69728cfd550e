import threading
from pathlib import Path

import pytest

from antiphon.serving import user_functions
from antiphon.serving.answering.guards.functions import function_reason
from antiphon.serving.user_functions import UserFunctions

MODULE = """
import threading
def polite(text, request):
    return "please" in text or f"no please for {request['question']}"
def silent(text, request): pass
def wrong(text, request): return False
def broken(text, request): raise ValueError(text)
release = threading.Event()
def hangs(text, request): release.wait(30)
"""


async def test_a_function_passes_says_why_not_or_has_not_passed(tmp_path: Path) -> None:
    (tmp_path / "shop_guard_functions.py").write_text(MODULE)
    functions = UserFunctions(("shop_guard_functions",), tmp_path)

    async def said(name: str, text: str, seconds: float = 5.0) -> str | None:
        return await function_reason(functions, f"shop_guard_functions:{name}", text, {"question": "where?"}, seconds)

    assert await said("polite", "please wait") is None
    assert await said("polite", "wait") == "no please for where?"
    assert await said("silent", "") is None
    assert await said("wrong", "") == "shop_guard_functions:wrong said no"
    assert await said("broken", "secret") == "shop_guard_functions:broken raised ValueError"
    assert await said("missing", "") == "shop_guard_functions:missing raised AttributeError"
    assert await said("hangs", "", 0.05) == "shop_guard_functions:hangs did not answer within 0.05 s"
    import shop_guard_functions  # type: ignore[import-not-found]

    shop_guard_functions.release.set()


async def test_what_a_function_raises_is_logged_once_for_each_type(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "raising_guard_functions.py").write_text("def by_length(text, request): return 1 / len(text)\n")
    functions = UserFunctions(("raising_guard_functions",), tmp_path)
    for _ in range(3):
        said = await function_reason(functions, "raising_guard_functions:by_length", "", {}, 5)
        assert said == "raising_guard_functions:by_length raised ZeroDivisionError"
    (logged,) = [record for record in caplog.records if record.name == user_functions.__name__]
    assert "raising_guard_functions:by_length" in logged.getMessage()
    assert logged.exc_info is not None


async def test_only_named_modules_are_imported() -> None:
    assert await function_reason(UserFunctions(), "os:getcwd", "", {}, 1) == "os:getcwd raised SetupError"
    assert (
        await function_reason(UserFunctions(("os",)), "ossaudiodev:open", "", {}, 1)
        == "ossaudiodev:open raised SetupError"
    )


async def test_functions_run_off_the_event_loop() -> None:
    functions = UserFunctions(("tests.unit.serving.answering.guards.test_functions",))
    name = "tests.unit.serving.answering.guards.test_functions:thread_name"
    assert str(await function_reason(functions, name, "", {}, 5)).startswith("user-function")


def thread_name(text: str, request: object) -> str:
    return threading.current_thread().name
