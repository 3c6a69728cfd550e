"""The base model's GGUF file as torch sees it: tensors under Hugging Face's names, and its configuration.

GGUF keeps the rows of a Llama model's query and key matrices in another order (the rotary halves interleaved;
``LlamaModel.permute`` in llama.cpp's ``convert_hf_to_gguf.py``). :func:`permute` and its inverse are the only places
that know.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from antiphon.core.disk import file_sha256
from antiphon.core.errors import CorruptionError, InvalidInputError

Matrix = NDArray[np.float32]
Real = TypeVar("Real", bound=np.floating[Any])

_LAYER = {
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class Base:
    """A base model's file, opened; tensors are dequantized when they are asked for.

    Args:
        path: a GGUF file of the architecture ``llama``.
        sha256: what the file must hash to; ``None`` skips the check.

    Raises:
        CorruptionError: the file is gone, changed, or no GGUF file.
        InvalidInputError: another architecture, or a tensor that a Llama model does not have.
    """

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        again = {"where": str(path), "next_step": "Fetch it again with `antiphon models pull`."}
        if not path.is_file():
            raise CorruptionError("The base model's file is gone.", **again)
        self.sha256 = file_sha256(path)
        if sha256 is not None and self.sha256 != sha256:
            raise CorruptionError(
                f"The base model's file was changed: sha256 {self.sha256} instead of {sha256}.", **again
            )
        from gguf import GGUFReader

        try:
            self.reader: Any = GGUFReader(path)
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise CorruptionError(f"The file is no GGUF file ({error}).", **again) from error
        self.path = path
        if self.value("general.architecture") != "llama":
            raise InvalidInputError(
                f"Models of the architecture {self.value('general.architecture')!r} cannot be fine-tuned.",
                where=str(path),
                next_step="Take a base model of the architecture llama, such as smollm2-135m.",
            )
        unknown = [tensor.name for tensor in self.reader.tensors if hugging_face_name(tensor.name) is None]
        if unknown:
            raise InvalidInputError(
                f"The tensor {unknown[0]} is unknown.", where=str(path), next_step="Take another base model."
            )

    def value(self, key: str) -> Any:
        """A value of the file's metadata, ``None`` when it is not there."""
        field = self.reader.fields.get(key)
        return None if field is None else field.contents()

    def heads(self, gguf_name: str) -> int | None:
        """Number of heads that the rows of a matrix are permuted over; ``None`` when they are not."""
        if gguf_name.endswith("attn_q.weight"):
            return int(self.value("llama.attention.head_count"))
        if gguf_name.endswith("attn_k.weight"):
            return int(self.value("llama.attention.head_count_kv") or self.value("llama.attention.head_count"))
        return None

    def tensors(self) -> Iterator[tuple[str, Matrix]]:
        """Every tensor under Hugging Face's name, dequantized to float32, rows in Hugging Face's order."""
        for tensor in self.reader.tensors:
            matrix = dequantized(tensor)
            heads = self.heads(tensor.name)
            name = hugging_face_name(tensor.name)
            assert name is not None
            yield name, matrix if heads is None else unpermute(matrix, heads)

    def configuration(self) -> dict[str, Any]:
        """The arguments of ``transformers.LlamaConfig``."""
        heads = int(self.value("llama.attention.head_count"))
        width = int(self.value("llama.embedding_length"))
        names = {tensor.name for tensor in self.reader.tensors}
        return {
            "vocab_size": len(self.reader.fields["tokenizer.ggml.tokens"].data),
            "hidden_size": width,
            "intermediate_size": int(self.value("llama.feed_forward_length")),
            "num_hidden_layers": int(self.value("llama.block_count")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(self.value("llama.attention.head_count_kv") or heads),
            "head_dim": int(self.value("llama.attention.key_length") or width // heads),
            "max_position_embeddings": self.context_tokens,
            "rms_norm_eps": float(self.value("llama.attention.layer_norm_rms_epsilon")),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": float(self.value("llama.rope.freq_base") or 10_000.0),
            },
            "tie_word_embeddings": "output.weight" not in names,
            "use_cache": False,
        }

    @property
    def context_tokens(self) -> int:
        """The longest sequence the model was made for."""
        return int(self.value("llama.context_length"))


def hugging_face_name(gguf_name: str) -> str | None:
    """``blk.3.attn_q.weight`` → ``model.layers.3.self_attn.q_proj.weight``; ``None`` for an unknown tensor."""
    if gguf_name in _OUTER:
        return _OUTER[gguf_name]
    head, _, rest = gguf_name.partition(".")
    layer, _, kind = rest.partition(".")
    if head != "blk" or not layer.isdigit() or kind not in _LAYER:
        return None
    return f"model.layers.{layer}.{_LAYER[kind]}"


def dequantized(tensor: Any) -> Matrix:
    """A reader's tensor as float32, shape (rows, columns)."""
    from gguf import quants

    return np.asarray(quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)


def permute(matrix: NDArray[Real], heads: int) -> NDArray[Real]:
    """Rows from Hugging Face's order (each head: first halves, then second halves) to GGUF's (interleaved)."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def unpermute(matrix: NDArray[Real], heads: int) -> NDArray[Real]:
    """The inverse of :func:`permute`."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
