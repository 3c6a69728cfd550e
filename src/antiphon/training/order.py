"""Messages between the worker and the training process, all through files of one folder.

``order.json`` goes in; ``progress.jsonl`` is appended to; ``result.json`` or ``error.json`` comes out.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from antiphon.core.disk import file_sha256, replace_file
from antiphon.core.errors import AntiphonError, CorruptionError
from antiphon.training.recipe import Recipe, identity

ORDER, PROGRESS, RESULT, ERROR, LOG = "order.json", "progress.jsonl", "result.json", "error.json", "training.log"
ADAPTER, WEIGHTS = "adapter.safetensors", "weights.gguf"


class ParentAdapter(msgspec.Struct, frozen=True):
    """The adapter of an earlier version that training goes on from."""

    path: str
    sha256: str


class TrainingOrder(msgspec.Struct, frozen=True):
    """One training to be done in a folder of its own.

    Attributes:
        folder: holds everything about this training and nothing else.
        name: of the version that is made, for messages.
        base_path, base_sha256: the base model's GGUF file.
        examples_path, examples_sha256: the file that ``examples.write`` made.
        parent: where training goes on from; ``None`` starts from the base model alone.
        memory_bytes: the most address space the process may use; ``None`` sets no bound.
    """

    folder: str
    name: str
    base_path: str
    base_sha256: str
    examples_path: str
    examples_sha256: str
    recipe: Recipe = Recipe()
    parent: ParentAdapter | None = None
    memory_bytes: int | None = None

    @property
    def identity(self) -> str:
        """See :func:`antiphon.training.recipe.identity`."""
        parent = self.parent.sha256 if self.parent else None
        return identity(self.recipe, self.base_sha256, self.examples_sha256, parent)


class TrainedFile(msgspec.Struct, frozen=True):
    """A file in the order's folder."""

    path: str
    sha256: str
    size: int


class TrainingResult(msgspec.Struct, frozen=True):
    """The result of a completed training.

    Attributes:
        identity: the order's, with the code and libraries that did it.
        adapter: the LoRA matrices, in float32, under peft's names.
        weights: base and adapter merged and quantized: what the engine serves.
        losses: (step, loss) of every step, the loss before its update.
        seconds: of training, pauses left out.
        environment: library versions, threads, processor.
        notices: what went wrong and was mended, such as a corrupt checkpoint.
    """

    identity: str
    code: str
    adapter: TrainedFile
    weights: TrainedFile
    losses: tuple[tuple[int, float], ...]
    seconds: float
    environment: dict[str, str]
    notices: tuple[str, ...] = ()


class TrainingProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of ``progress.jsonl``.

    Attributes:
        stage: ``loading``, ``training`` or ``converting``.
        step: updates done, of ``steps``.
        loss: of that step's batch, before its update.
        seconds: of training so far, pauses left out; ``left``: an estimate of what remains of it.
        notice: something the reader should know.
    """

    stage: str
    step: int
    steps: int
    loss: float | None = None
    seconds: float = 0.0
    left: float | None = None
    notice: str = ""


class Failure(msgspec.Struct, frozen=True):
    """``error.json``: an error of ``core.errors``, by its code."""

    code: str
    what: str
    where: str | None = None
    next_step: str | None = None


def write_order(order: TrainingOrder) -> None:
    """Put ``order.json`` into the order's folder."""
    replace_file(Path(order.folder) / ORDER, msgspec.json.encode(order))


def read_order(folder: Path) -> TrainingOrder:
    """The order of a folder; raises ``CorruptionError`` when there is none, or it cannot be read."""
    try:
        return msgspec.json.decode((folder / ORDER).read_bytes(), type=TrainingOrder)
    except (OSError, msgspec.DecodeError) as error:
        raise CorruptionError(
            f"The order cannot be read ({error}).", where=str(folder / ORDER), next_step="Order the training again."
        ) from error


def read_result(order: TrainingOrder) -> tuple[TrainingResult | None, str | None]:
    """Reads the result of a completed folder, or the reason why it is not whole."""
    path = Path(order.folder) / RESULT
    try:
        trained = msgspec.json.decode(path.read_bytes(), type=TrainingResult)
    except FileNotFoundError:
        return None, None
    except (OSError, msgspec.DecodeError) as error:
        return None, f"{RESULT} cannot be read ({error}): it is made again."
    if trained.identity != order.identity:
        return None, f"{RESULT} is of another order or of other code: the training is done again."
    for made in (trained.adapter, trained.weights):
        name = Path(made.path).name
        if not Path(made.path).is_file():
            return None, f"{name} is gone: it is made again."
        if file_sha256(Path(made.path)) != made.sha256:
            return None, f"{name} does not match its hash: it is made again."
    return trained, None


def raised(failure: Failure) -> AntiphonError:
    """The error a failure stands for, of its own class where this process knows the code."""
    kinds = [AntiphonError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    kind = next((kind for kind in kinds if kind.code == failure.code), AntiphonError)
    return kind(failure.what, where=failure.where, next_step=failure.next_step)
