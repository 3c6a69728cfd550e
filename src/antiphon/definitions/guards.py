"""Kinds of guards that an application declares: what a text must meet before it is shown, and what happens otherwise.

A release pins them as values. What they see and how they act is in ``serving/answering/guards``.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

PII_KINDS = ("email", "phone", "iban", "card", "ip")
"""Kinds of personal data that :class:`PIIGuard` recognizes."""


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the guards: the actions, in their order.

    A text that does not pass is generated again with another seed, up to ``retries`` times. If none passed, the
    ``action`` follows. An exception or a time-out in a guard counts as not passed.

    Attributes:
        retries: how often the model is asked again, each time with another seed.
        retry_temperature: greedy decoding would repeat itself, so a retry samples at least this warmly.
        action: ``template`` puts ``fallback`` in the place of the text, ``refuse`` ends the request with an error,
            ``flag`` serves the text and says so in the receipt. Unset: a template where there is a fallback,
            otherwise a refusal. Where several guards fail, a refusal comes before a template.
        fallback: Jinja2 with the prompt template's variables and ``output``.
        whole: judge the whole text alone; nothing of it is shown before its end.
        name: in receipts and errors; kind and property by default.
    """

    fallback: str = ""
    retries: int = 1
    retry_temperature: float = 0.7
    # Unset for none, so that a release and its stored answers keep their hashes over an upgrade.
    action: Literal["template", "refuse", "flag"] | msgspec.UnsetType = msgspec.UNSET
    whole: bool | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if isinstance(listed := getattr(self, field), list):
                msgspec.structs.force_setattr(self, field, tuple(listed))

    @property
    def outcome(self) -> Literal["template", "refuse", "flag"]:
        """The action once retries are used up."""
        return self.action or ("template" if self.fallback else "refuse")

    def needs_end(self) -> bool:
        """Tells whether only a whole text can pass."""
        return bool(self.whole)

    @property
    def label(self) -> str:
        """Its name, by default kind, property, and a rubric's version."""
        version = getattr(self, "version", "")
        parts = (str(self.__struct_config__.tag), getattr(self, "property", ""), f"v{version}" if version else "")
        return self.name or ":".join(filter(None, parts))


class FigureGuard(Guard, frozen=True, tag="figures"):
    """Guard on figures: a text may state only figures that come from this request's features, in their role.

    Numbers are read as the application's ``locale`` writes them, in digits and in words.

    Attributes:
        property: the property of the output that holds the text; empty: all of it.
    """

    property: str = ""


class ContentGuard(Guard, frozen=True, tag="content"):
    """Guard on phrases that a text must not have, or must have. Case and white space do not matter.

    Attributes:
        property: the property of the output that holds the text; empty: all of it.
        forbidden: phrases of which none may occur, as whole words.
        required: phrases of which each must occur, as whole words.
    """

    property: str = ""
    forbidden: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    def needs_end(self) -> bool:
        """Tells whether only a whole text can pass."""
        return bool(self.whole) or bool(self.required)


class PatternGuard(Guard, frozen=True, tag="pattern"):
    """Guard on a regular expression, in the syntax of the package ``regex``. A search that takes longer than 0.1 s
    counts as not passed.

    Attributes:
        property: the property of the output that holds the text; empty: all of it.
        pattern: the regular expression.
        required: it must occur; otherwise it must not.
    """

    property: str = ""
    pattern: str = ""
    required: bool = False

    def needs_end(self) -> bool:
        """Tells whether only a whole text can pass."""
        return bool(self.whole) or self.required


class SchemaGuard(Guard, frozen=True, tag="schema"):
    """Guard on a JSON schema that a property's value, or a text that is JSON, must meet beside the output schema.

    Attributes:
        property: the property of the output that holds the value; empty: all of the output.
        schema: the JSON schema.
    """

    property: str = ""
    schema: dict[str, Any] = {}

    def needs_end(self) -> bool:
        """Tells whether only a whole text can pass."""
        return True


class PIIGuard(Guard, frozen=True, tag="pii"):
    """Guard on personal data, by the patterns and checksums of each kind. Receipts say kinds and numbers, never the
    text.

    Attributes:
        property: the property of the output that holds the text; empty: all of it.
        kinds: of personal data: ``email``, ``phone``, ``iban``, ``card``, ``ip``.
        allowed: texts that may occur all the same, such as the shop's own address.
    """

    property: str = ""
    kinds: tuple[str, ...] = PII_KINDS
    allowed: tuple[str, ...] = ()


class GroundedGuard(Guard, frozen=True, tag="grounded"):
    """Guard on groundedness: each sentence's words and numbers come from the request's texts and features.

    A sentence passes when all of its numbers, and at least ``share`` of its words of four letters or more, occur in the
    question, the entity's keys, the inputs, the printed features, the retrieved chunks, or ``documents`` (K-Precision,
    Adlakha et al. 2023, a sentence at a time).

    Attributes:
        property: the property of the output that holds the text; empty: all of it.
        share: least share of a sentence's words, from 0 to 1.
        documents: further texts to hold it to.
    """

    property: str = ""
    share: float = 0.5
    documents: tuple[str, ...] = ()


class CitationGuard(Guard, frozen=True, tag="citations"):
    """Guard on citations of retrieved chunks: ``[2]`` is the chunk of that number, ``[returns.md#1]`` that of this id.

    A text that cites what was not retrieved does not pass.

    Attributes:
        property: the property of the output that holds the text; empty: all of it.
        required: it must cite at least one chunk, where any was retrieved.
        share: least share of the words of a sentence with citations that the cited chunks have, and all of its numbers
            (see :class:`GroundedGuard`), which holds a stream back to its end; 0 looks at the citations alone.
    """

    property: str = ""
    required: bool = True
    share: float = 0.0

    def needs_end(self) -> bool:
        """Tells whether only a whole text can pass."""
        return bool(self.whole) or self.required


class FunctionGuard(Guard, frozen=True, tag="function"):
    """Guard in Python: ``function(text, request)`` returns ``True`` or ``None`` to pass, ``False`` or a reason if not.

    It runs in a thread of gateways and workers, whose ``[project] guard_modules`` must name its module. ``request`` is
    a mapping with ``entity``, ``question``, ``inputs``, ``features`` as printed and ``retrieved`` chunks. The release
    pins its name, not its code. In a stream it is asked about each longer beginning of the text, unless ``whole`` is
    set.

    Attributes:
        property: the property of the output that holds the text; empty: all of it.
        function: ``module:function``, or the function itself.
        timeout: seconds within which it must answer, up to 10.
    """

    property: str = ""
    function: str = ""
    timeout: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if callable(self.function):
            where = getattr(self.function, "__module__", ""), getattr(self.function, "__qualname__", "")
            msgspec.structs.force_setattr(self, "function", ":".join(map(str, where)))


class JudgeGuard(Guard, frozen=True, tag="judge"):
    """Guard by a judge model that is told a rubric and answers ``pass`` or ``fail``, greedily and after the whole text.

    Attributes:
        property: the property of the output that holds the text; empty: all of it.
        rubric: the question that the judge answers about the text, in words.
        version: of the rubric, for receipts; change it with the rubric.
        engine: ``ENGINE`` or ``ENGINE/MODEL`` that judges; empty: the engine and model that answer.
        timeout: seconds within which it must answer.
    """

    property: str = ""
    rubric: str = ""
    version: str = "1"
    engine: str = ""
    timeout: float = 10.0

    def needs_end(self) -> bool:
        """Tells whether only a whole text can pass."""
        return True


AnyGuard = (
    FigureGuard
    | ContentGuard
    | PatternGuard
    | SchemaGuard
    | PIIGuard
    | GroundedGuard
    | CitationGuard
    | FunctionGuard
    | JudgeGuard
)
