"""The base model with LoRA matrices on every linear layer, and their float32 masters.

The model computes in the recipe's number format. What is trained is one flat float32 vector, the *masters*; after each
update the model's matrices are its values, rounded to that format. Updates of a bfloat16 matrix smaller than its last
bit would be lost. In float32 nothing is rounded, and the same steps are taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from antiphon.core.disk import file_sha256, replace_file
from antiphon.core.errors import CorruptionError, InvalidInputError
from antiphon.training.base import Base
from antiphon.training.batches import TokenizedExample, groups
from antiphon.training.order import ParentAdapter
from antiphon.training.recipe import Recipe, torch_dtype


class LoraModel:
    """A Llama model to be fine-tuned.

    Attributes:
        llama: the ``transformers`` model with peft's matrices in it.
        masters: the flat vector that is trained, float32, shape ``(parameters,)``; ``masters.grad`` is its gradient.
    """

    def __init__(self, base: Base, recipe: Recipe) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(recipe.seed)
        self._device = recipe.device
        adapted: Any = get_peft_model(
            _llama(base, recipe),
            LoraConfig(
                r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=0.0, bias="none", target_modules="all-linear"
            ),
            autocast_adapter_dtype=False,
        )
        adapted.train()
        self.llama: Any = adapted.base_model.model
        self._made_of = {"alpha": recipe.alpha, "base_sha256": base.sha256, "rank": recipe.rank}
        named = sorted((name, parameter) for name, parameter in adapted.named_parameters() if parameter.requires_grad)
        self._names = [name.replace(".default.", ".") for name, _ in named]
        self._matrices: list[Any] = [parameter for _, parameter in named]
        flat = torch.cat([matrix.detach().float().reshape(-1) for matrix in self._matrices])
        self.masters: Any = torch.nn.Parameter(flat)
        self.masters.grad = torch.zeros_like(flat)
        self.round()

    def clear_gradient(self) -> None:
        """Before the gradient of another step."""
        self.masters.grad.zero_()

    def backward(self, batch: Sequence[TokenizedExample], count: int) -> float:
        """Add the gradient of the texts' loss, divided by ``count``, to the masters'; returns that loss.

        A token whose weight is below 0 is unlearned. The output layer runs only where something is learned, and texts
        of like length are computed together.
        """
        return sum(self._backward(*self._tensors(group), 1.0 / count) for group in _alike(batch))

    def log_likelihoods(self, texts: Sequence[TokenizedExample]) -> list[float]:
        """Of each text the logarithm of the probability of what is learned, times its weights."""
        import torch

        found: dict[int, float] = {}
        for group in _alike(texts):
            tokens, weights = self._tensors(group)
            learned = weights[:, 1:] != 0
            with torch.no_grad():
                weighed = torch.zeros_like(weights[:, 1:])
                weighed[learned] = self._surprise(tokens, learned) * weights[:, 1:][learned]
                sums = weighed.sum(dim=1)
            found |= {id(text): -float(one) for text, one in zip(group, sums, strict=True)}
        return [found[id(text)] for text in texts]

    def _tensors(self, group: Sequence[TokenizedExample]) -> tuple[Any, Any]:
        """Tokens (int64) and what predicting each counts (float32), of shape (texts, length), padded on the right: with
        causal attention no token sees what follows it, so padding needs no mask."""
        import torch

        longest = max(len(one.tokens) for one in group)
        tokens = [one.tokens + (0,) * (longest - len(one.tokens)) for one in group]
        weights = [one.weights + (0.0,) * (longest - len(one.weights)) for one in group]
        return torch.tensor(tokens, device=self._device), torch.tensor(weights, device=self._device)

    def _backward(self, tokens: Any, weights: Any, share: float) -> float:
        learned = weights[:, 1:] != 0
        loss = (self._surprise(tokens, learned) * weights[:, 1:][learned]).sum() * share
        loss.backward()
        for part, matrix in self._parts(self.masters.grad):
            part.add_(matrix.grad.reshape(-1))
            matrix.grad = None
        return float(loss.detach())

    def _surprise(self, tokens: Any, learned: Any) -> Any:
        """The negative logarithm of the probability of each token that is learned, float32, flat."""
        from torch.nn.functional import cross_entropy

        hidden = self.llama.model(input_ids=tokens).last_hidden_state
        logits = self.llama.lm_head(hidden[:, :-1][learned]).float()
        return cross_entropy(logits, tokens[:, 1:][learned], reduction="none")

    def _parts(self, flat: Any) -> Iterator[tuple[Any, Any]]:
        """Each matrix beside its part of a flat vector, a view."""
        return zip(flat.split([matrix.numel() for matrix in self._matrices]), self._matrices, strict=True)

    def round(self) -> None:
        """Set the model's matrices to the masters' values."""
        import torch

        with torch.no_grad():
            for part, matrix in self._parts(self.masters):
                matrix.copy_(part.view_as(matrix))

    def save(self, path: Path) -> str:
        """Write the masters under peft's names as safetensors; returns the file's SHA-256 hex."""
        import torch
        from safetensors.torch import save

        with torch.no_grad():
            parts = self._parts(self.masters.cpu())
            tensors = {
                name: part.view(matrix.shape).clone() for name, (part, matrix) in zip(self._names, parts, strict=True)
            }
        replace_file(path, save(tensors, {"adapter": json.dumps(self._made_of)}))
        return file_sha256(path)

    def continue_from(self, parent: ParentAdapter) -> None:
        """Begin with an earlier version's matrices.

        Raises:
            CorruptionError: the adapter is gone or changed.
            InvalidInputError: it is of another base model, rank or alpha.
        """
        import torch

        tensors, made_of = read_adapter(Path(parent.path), parent.sha256)
        if made_of != self._made_of or sorted(tensors) != self._names:
            raise InvalidInputError(
                f"The earlier adapter is of {made_of}, the recipe of {self._made_of}.",
                where=parent.path,
                next_step="Train from the base model, or keep base, rank and alpha.",
            )
        with torch.no_grad():
            self.masters.copy_(torch.cat([tensors[name].reshape(-1) for name in self._names]))
        self.round()


def _alike(texts: Sequence[TokenizedExample]) -> list[list[TokenizedExample]]:
    """Texts in groups of like length."""
    return [[texts[place] for place in group] for group in groups([len(one.tokens) for one in texts])]


def read_adapter(path: Path, sha256: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """An adapter's float32 matrices by peft's names, and what it was made of (alpha, base_sha256, rank); raises
    ``CorruptionError`` when the file is gone, changed or no adapter."""
    from safetensors import SafetensorError, safe_open

    again = {
        "where": str(path),
        "next_step": "Rebuild the version with `antiphon models rebuild`, or train without it.",
    }
    if not path.is_file():
        raise CorruptionError("The adapter is gone.", **again)
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise CorruptionError(f"The adapter is corrupt: sha256 {found} instead of {sha256}.", **again)
    try:
        with safe_open(path, "pt") as file:
            made_of = dict(json.loads(file.metadata()["adapter"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CorruptionError(f"The file is no adapter ({error}).", **again) from error
    return tensors, made_of


def _llama(base: Base, recipe: Recipe) -> Any:
    """The base model in the recipe's number format and on its device, its matrices frozen by peft."""
    import torch
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    # Eager attention: on a CPU its backward pass at these lengths is faster than that of the fused kernel.
    library: Any = transformers
    configuration = library.LlamaConfig(**base.configuration(), attn_implementation="eager")
    with torch.device("meta"):
        model: Any = library.LlamaForCausalLM(configuration)
    place = {"device": recipe.device, "dtype": torch_dtype(torch, recipe.dtype)}
    state = {name: torch.from_numpy(matrix.copy()).to(**place) for name, matrix in base.tensors()}
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    tied = {"lm_head.weight"} if configuration.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise InvalidInputError(
            f"The base model lacks {sorted(set(missing) - tied)} or has {unexpected} too many.",
            where=str(base.path),
            next_step="Take another base model.",
        )
    model.tie_weights()
    model.model.rotary_emb = LlamaRotaryEmbedding(configuration).to(recipe.device)
    return model
