import asyncio

import pytest

from antiphon.core.errors import EngineError
from antiphon.engine.api.messages import GenerationRequest
from antiphon.engine.backends.remote.admission import ServerReport
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.backends.remote.front import UpstreamFront
from antiphon.engine.backends.remote.protocol import report_of

REQUEST = GenerationRequest("r", "words", "Say.", 4, priority="batch")
METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="a"} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 2.0
vllm:num_requests_waiting{engine="0",model_name="a"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="a",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a"} 0.75
process_open_fds 12.0
"""


async def test_a_turn_that_comes_with_a_cancellation_is_given_back() -> None:
    front = UpstreamFront(RemoteEngine("http://127.0.0.1:9"))
    first = await front._admitted(REQUEST)
    waiting = asyncio.create_task(front._admitted(REQUEST))
    await asyncio.sleep(0)
    assert front.load().waiting_batch == 1
    front._give_back(first, None)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (front.load().running_batch, front.load().waiting_batch) == (0, 0)


def test_the_metrics_of_all_engines_of_a_vllm_are_one_report() -> None:
    assert report_of(METRICS.encode(), "url") == ServerReport(5, 1, 0.75)


@pytest.mark.parametrize("content", [b"", b"<html>", METRICS.replace("usage_perc", "usage").encode(), b"\xff", b"a{"])
def test_what_are_no_metrics_is_an_error(content: bytes) -> None:
    with pytest.raises(EngineError, match="metrics cannot be read"):
        report_of(content, "url")
