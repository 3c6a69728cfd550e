"""Which changes of a model's weights a look of the front sees: mean differences of its log-probabilities, in nats.

    python -m benchmarks.upstream.changes [--keep]

SmolLM2-135M in bfloat16 beside itself in float32, beside weights rounded by rows to 8, 6 and 4 bits, with Gaussian
noise on every matrix, and after some steps of fine-tuning (AdamW, rate 1e-5, three sentences). Computed by transformers
from the form that ``scripts/vllm-environment`` writes; seeded, and the same on one machine. Two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.colocation.open_loop import MODEL
from benchmarks.upstream.__main__ import RESULTS

from antiphon.engine.backends.remote.observation import ALTERNATIVES, PROMPTS, TOLERANCE, apart

ROOT = Path(__file__).parents[2]
NOISE, BITS, STEPS = (0.001, 0.003, 0.01, 0.03), (8, 6, 4), (1, 3, 10, 30)
"""Standard deviations of noise as shares of a matrix's own; bits of rounding; steps of fine-tuning."""
SENTENCES = (
    "The flight from JFK to BOS is late because of weather in the north.",
    "Gate B12: boarding begins at nine and ends at half past.",
    "Delay of 25 minutes is likely; the crew arrives on another plane.",
)


def measured() -> Iterator[tuple[str, float]]:
    """Each change and its difference from the weights in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    script = str(ROOT / "scripts" / "vllm-environment")
    python = Path(subprocess.run([script], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    folder = str(python.parents[1] / "models" / MODEL)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def loaded(kind: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()

    def look(model: Any) -> dict[str, dict[str, float]]:
        seen = {}
        for prompt in PROMPTS:
            with torch.no_grad():
                logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
            values, tokens = logits.float().log_softmax(-1).topk(ALTERNATIVES)
            seen[prompt] = {
                tokenizer.decode([int(token)]): float(value) for value, token in zip(values, tokens, strict=True)
            }
        return seen

    def changed(change: Callable[[Any], Any]) -> Any:
        model = loaded(torch.float32)
        with torch.no_grad():
            for matrix in model.parameters():
                if matrix.dim() > 1:
                    matrix.copy_(change(matrix))
        return model.to(torch.bfloat16)

    def rounded(matrix: Any, bits: int) -> Any:
        scale = matrix.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        return (matrix / scale).round() * scale

    reference = look(loaded(torch.bfloat16))
    yield "float32", apart(reference, look(loaded(torch.float32)))
    for bits in BITS:
        yield f"{bits} bits", apart(reference, look(changed(lambda matrix, bits=bits: rounded(matrix, bits))))  # type: ignore[misc]
    for share in NOISE:
        noisy = changed(lambda matrix, share=share: matrix + torch.randn_like(matrix) * matrix.std() * share)  # type: ignore[misc]
        yield f"noise of {share:.1%}", apart(reference, look(noisy))
    model = loaded(torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    for step in range(1, max(STEPS) + 1):
        batch = tokenizer(SENTENCES[step % len(SENTENCES)], return_tensors="pt")
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in STEPS:
            yield f"fine-tuned, {step} steps", apart(reference, look(model.eval()))
            model.train()


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upstream.changes")
    parser.add_argument("--keep", action="store_true", help=f"add the line to {RESULTS.name}")
    options = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    found = {}
    for name, nats in measured():
        found[name] = round(nats, 4)
        print(f"{name:24}{nats:8.4f} nats  {'seen' if nats > TOLERANCE else '-'}", flush=True)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"benchmark": "upstream_changes", "at": at, "tolerance": TOLERANCE, "nats": found})
    if options.keep:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
