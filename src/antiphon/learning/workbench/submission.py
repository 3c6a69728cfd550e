"""Annotations as they are sent, and what can be wrong with one."""

from __future__ import annotations

import msgspec

from antiphon.catalog.learning.annotations import AnnotationKind
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.learning.workbench.agreement import SCORES

_LONGEST = 20_000
_VALUES: dict[AnnotationKind, tuple[str, ...]] = {
    "thumbs": ("up", "down"), "preference": ("this", "other", "tie"), "rubric": SCORES,
}  # fmt: skip


class AnnotationSubmission(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An annotation as it is sent.

    Attributes:
        value: the label, ``up`` or ``down``, the corrected text, a score from 1 to 5, or ``this``, ``other``, ``tie``.
        criterion: of a rubric its criterion; of a label the property, that of the outcome by default.
        other: of a preference the other prediction.
        annotator: whose it is, where somebody else's are brought in; the sender's by default.
    """

    prediction: str
    kind: AnnotationKind
    value: str
    criterion: str = ""
    other: str | None = None
    note: str = ""
    annotator: str = ""


def checked(sent: AnnotationSubmission, application: ApplicationSpec | None) -> AnnotationSubmission:
    """The annotation with its criterion; raises ``InvalidInputError``, with what may be sent, for a value that it
    cannot have.

    Args:
        application: whose prediction it is; ``None`` for one that is not known any more, whose labels are not checked.
    """
    if not sent.value.strip() or max(len(sent.value), len(sent.note), len(sent.criterion)) > _LONGEST:
        raise InvalidInputError(
            f"The value has {len(sent.value)} characters, the note {len(sent.note)}.",
            where="value",
            next_step=f"Send 1 to {_LONGEST}.",
        )
    allowed = _VALUES.get(sent.kind)
    if allowed is not None and sent.value not in allowed:
        raise InvalidInputError(
            f"{sent.value[:80]!r} is no value of {sent.kind}.", where="value", next_step=f"Send {', '.join(allowed)}."
        )
    if (sent.kind == "preference") != (sent.other is not None) or sent.other == sent.prediction:
        raise InvalidInputError(
            "A preference names another prediction, and nothing else does.",
            where="other",
            next_step="Send the prediction that this one was shown beside.",
        )
    if sent.kind == "rubric" and not sent.criterion:
        raise InvalidInputError(
            "A score is of a criterion.", where="criterion", next_step="Name it, such as helpfulness or tone@2."
        )
    return sent if sent.kind != "label" or application is None else _labelled(sent, application)


def _labelled(sent: AnnotationSubmission, application: ApplicationSpec) -> AnnotationSubmission:
    properties = (application.schema or {}).get("properties", {})
    enums = {name: [str(one) for one in said["enum"]] for name, said in properties.items() if "enum" in said}
    name = sent.criterion or (application.outcome.property if application.outcome is not None else "")
    name = name or (next(iter(enums)) if len(enums) == 1 else "")
    if not name:
        raise InvalidInputError(
            "The label is of no property.",
            where="criterion",
            next_step=f"Name one of {', '.join(enums) or 'none: the output has no labels'}.",
        )
    if name in enums and sent.value not in enums[name]:
        raise InvalidInputError(
            f"{name} is never {sent.value[:80]!r}.", where="value", next_step=f"Send {', '.join(enums[name])}."
        )
    return msgspec.structs.replace(sent, criterion=name)
