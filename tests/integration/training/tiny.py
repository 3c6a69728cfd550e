"""A base model of 100,000 random values that llama.cpp reads: training it takes moments, its mechanics are the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from antiphon.core.disk import file_sha256
from antiphon.training.examples import Example, Part, write
from antiphon.training.fine_tune import ProgressLog, fine_tune
from antiphon.training.order import PROGRESS, ParentAdapter, TrainingOrder, TrainingResult
from antiphon.training.recipe import Recipe

WIDTH, FEED_FORWARD, LAYERS, HEADS, KEY_HEADS = 64, 96, 2, 4, 2
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokens() -> list[str]:
    """GPT-2's printable name of each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in shown}
    for byte in range(256):
        names.setdefault(byte, chr(256 + len(names) - len(shown)))
    return [names[byte] for byte in range(256)]


def write_base(path: Path) -> Path:
    """Write the model, in float32 but for the Q8_0 embedding."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    values = np.random.default_rng(7)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = [*SPECIAL, *byte_tokens(), "ab"]
    tokens += [f"<unused{number}>" for number in range(-len(tokens) % 32)]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * 257 + [5] * (len(tokens) - 257 - len(SPECIAL)))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return values.normal(0.0, 0.15, (rows, columns)).astype(np.float32)

    embedding = quants.quantize(matrix(len(tokens), WIDTH), GGMLQuantizationType.Q8_0)
    writer.add_tensor("token_embd.weight", embedding, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    key_width = WIDTH // HEADS * KEY_HEADS
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (key_width, WIDTH),
            "attn_v": (key_width, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (FEED_FORWARD, WIDTH),
            "ffn_up": (FEED_FORWARD, WIDTH),
            "ffn_down": (WIDTH, FEED_FORWARD),
        }
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(*shape))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def flights(count: int, *, label: str | None = None, old: bool = False) -> tuple[Example, ...]:
    """Questions about delays; every third one is trained to its end."""
    drawn = random.Random(count)
    made = []
    for number in range(count):
        minutes = drawn.choice((0, 5, 20, 40))
        outlook = label or ("delayed" if minutes > 10 else "on_time")
        prompt = f"<|im_start|>user\nDepartures are {minutes} minutes late.<|im_end|>\n<|im_start|>assistant\n"
        parts = [Part('{"outlook": "', 0.0), Part(outlook, 1.0, label=True)]
        if number % 3 == 0:
            parts += [Part('", "notice": "', 0.0), Part(f'{minutes} minutes."}}<|im_end|>', 0.5)]
        made.append(Example(f"{'old' if old else 'new'}-{number}", prompt, tuple(parts), old))
    return tuple(made)


def order(
    folder: Path,
    base: Path,
    examples: tuple[Example, ...],
    recipe: Recipe,
    *,
    parent: ParentAdapter | None = None,
    memory_bytes: int | None = None,
) -> TrainingOrder:
    """An order in ``folder/training``, its examples beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / "examples.jsonl"
    return TrainingOrder(
        folder=str(folder / "training"),
        name="desk.v1",
        base_path=str(base),
        base_sha256=file_sha256(base),
        examples_path=str(written),
        examples_sha256=write(written, examples),
        recipe=recipe,
        parent=parent,
        memory_bytes=memory_bytes,
    )


def train_here(ordered: TrainingOrder, stopping: Callable[[], bool] = lambda: False) -> TrainingResult | None:
    """Train in this process, which has torch already: for what a process of its own does not change.

    One thread: others would spin while they wait (``child.environment`` keeps a process of its own from that).
    """
    ordered = msgspec.structs.replace(ordered, recipe=msgspec.structs.replace(ordered.recipe, threads=1))
    folder = Path(ordered.folder)
    folder.mkdir(exist_ok=True)
    return fine_tune(ordered, ProgressLog(folder / PROGRESS, ordered.recipe.steps), stopping)
