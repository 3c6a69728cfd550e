"""EleutherAI's evaluation harness, unmodified: log-likelihoods of continuations, over a task of local files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.clients.conftest import Platform, run

pytestmark = [pytest.mark.clients, pytest.mark.model]

QUESTIONS = (
    ("The capital of France is", ("Paris", "a banana", "seven", "quickly")),
    ("Two plus two equals", ("four", "green", "Tuesday", "under")),
    ("The sun rises in the", ("east", "keyboard", "sandwich", "when")),
    ("Water freezes into", ("ice", "arithmetic", "Portugal", "loudly")),
    ("A dog is an", ("animal", "oxygenated", "umbrella", "equation")),
    ("The opposite of hot is", ("cold", "Wednesday", "seventeen", "guitar")),
)
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
{more}
metadata:
  version: 1.0
"""
CHOICES = """\
doc_to_choice: choices
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
"""


def write_task(folder: Path, name: str, answer: int) -> None:
    rows = [{"question": question, "choices": choices, "answer": answer} for question, choices in QUESTIONS]
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, kind="multiple_choice", more=CHOICES))


def evaluated(clients: Path, real: Platform, folder: Path, *options: str, **arguments: Any) -> dict[str, Any]:
    """Results of every task in the folder, with the harness's own samples; nothing is fetched from anywhere."""
    model = {
        "model": real.model,
        "base_url": f"{real.base_url}/completions",
        "tokenizer_backend": "remote",
        "auth_token": real.key,
        "max_length": 1024,
        **arguments,
    }
    environment = real.environment(
        HF_HOME=str(folder / "hf"), HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
    )
    names = ",".join(sorted(task.stem for task in folder.glob("*.yaml")))
    run(
        clients / "python" / "bin" / "lm_eval", "run", "--model", "local-completions",
        "--model_args", ",".join(f"{name}={value}" for name, value in model.items()),
        "--tasks", names, "--include_path", folder, "--output_path", folder / "results.json", "--log_samples", *options,
        environment=environment,
    )  # fmt: skip
    (results,) = folder.rglob("results*.json")
    found: dict[str, Any] = json.loads(results.read_text())
    found["samples"] = {
        name: [json.loads(line) for line in next(folder.rglob(f"samples_{name}_*.jsonl")).read_text().splitlines()]
        for name in names.split(",")
    }
    return found


def test_the_model_finds_what_is_true_more_likely(clients: Path, real: Platform, tmp_path: Path) -> None:
    write_task(tmp_path, "true_endings", 0)
    write_task(tmp_path, "false_endings", 1)
    found = evaluated(clients, real, tmp_path)
    right = found["results"]["true_endings"]["acc,none"]
    wrong = found["results"]["false_endings"]["acc,none"]
    assert right >= 5 / 6
    assert wrong <= 1 / 6
    # What the harness made of it is what the endpoint says of the same tokens.
    sample = next(one for one in found["samples"]["true_endings"] if one["doc"]["question"] == QUESTIONS[0][0])
    likelihood = float(sample["resps"][0][0][0])
    with openai.OpenAI(base_url=real.base_url, api_key=real.key) as client:
        echoed = client.completions.create(
            model=real.model, prompt="The capital of France is Paris", echo=True, logprobs=1, max_tokens=1
        )
    logprobs = echoed.choices[0].logprobs
    assert logprobs is not None
    place = (logprobs.tokens or []).index(" Paris")
    assert (logprobs.token_logprobs or [])[place] == pytest.approx(likelihood, abs=1e-4)


def test_several_requests_at_once_say_the_same(clients: Path, real: Platform, tmp_path: Path) -> None:
    results = []
    for folder, arguments in (("one", {}), ("four", {"num_concurrent": 4}), ("texts", {"tokenized_requests": False})):
        (tmp_path / folder).mkdir()
        write_task(tmp_path / folder, "true_endings", 0)
        found = evaluated(clients, real, tmp_path / folder, **arguments)
        samples = sorted(found["samples"]["true_endings"], key=lambda one: one["doc_id"])
        results.append([sample["resps"] for sample in samples])
    assert results[0] == results[1] == results[2]
