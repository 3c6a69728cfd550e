"""A set of policies as one value: Cedar text, attributes of principals, and the cases it is tested with.

Invariant: the digest covers everything that can change a decision (schema, policies, attributes) and nothing else, so
that equal digests decide alike.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import msgspec

from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.ids import content_hash
from antiphon.governance.identity.principal import NO_LIMITS, Clearance, Kind, Limits, Principal, Role
from antiphon.governance.policy.request import Resource

T = TypeVar("T")

FOLDER = Path(__file__).parent / "policies"


class CaseResource(Resource, frozen=True, forbid_unknown_fields=True):
    """A resource as a test writes it."""

    name: str = "it"


class CasePrincipal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A principal as a test writes it; any text is a role, so that unknown ones can be tested."""

    role: str
    id: str = "somebody"
    tenant: str = "default"
    kind: Kind = "service"
    clearance: Clearance = "internal"
    limits: Limits = NO_LIMITS

    def principal(self) -> Principal:
        """As policy is asked about it."""
        role = cast(Role, self.role)
        return Principal(self.id, self.tenant, role, self.kind, self.clearance, self.limits)


class PolicyCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request and what is expected of it.

    Attributes:
        context: texts; ``as_of`` is a whole number. ``keys``: of the entity that is asked about.
        expect: the decision; ``by`` the policies that must be exactly those that decide (not looked at when left out).
        masked: columns that must be masked (not looked at when left out).
    """

    name: str
    principal: CasePrincipal
    action: str
    resource: CaseResource
    expect: Literal["allow", "deny"]
    context: dict[str, str | int] = {}
    keys: dict[str, str] = {}
    by: tuple[str, ...] | None = None
    masked: tuple[str, ...] | None = None


class _Attributes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attributes: dict[str, dict[str, str]] = {}


class _Cases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    case: tuple[PolicyCase, ...]


class PolicyDocument(msgspec.Struct, frozen=True):
    """Policies, the texts that they read as a principal's tags (``attributes``, by its name), and test cases of their
    decisions."""

    cedar: str
    attributes: dict[str, dict[str, str]] = {}
    cases: tuple[PolicyCase, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 hex of what can change a decision."""
        return content_hash([schema_text(), self.cedar, self.attributes])


@cache
def schema_text() -> str:
    """The Cedar schema."""
    return (FOLDER / "schema.cedarschema").read_text(encoding="utf-8")


@cache
def default_document() -> PolicyDocument:
    """Policies in force until others are approved."""
    cedar = (FOLDER / "default.cedar").read_text(encoding="utf-8")
    return PolicyDocument(cedar, cases=read_cases(FOLDER / "default.tests.toml"))


def read_document(files: Sequence[Path], tests: Sequence[Path] = (), *, defaults: bool = True) -> PolicyDocument:
    """A document of files: ``.cedar`` holds policies, ``.toml`` attributes; after the default policies and their cases.

    Raises:
        SetupError: a file cannot be read.
        InvalidInputError: it has another ending or is not what its ending says.
    """
    base = default_document() if defaults else PolicyDocument("")
    texts, cases = [base.cedar] if base.cedar else [], [*base.cases]
    attributes: dict[str, dict[str, str]] = {}
    for path in files:
        if path.suffix == ".cedar":
            texts.append(_text(path))
        elif path.suffix == ".toml":
            attributes.update(_typed(path, _toml(path), _Attributes).attributes)
        else:
            raise InvalidInputError(
                f"{path} is neither a .cedar nor a .toml file.",
                where=str(path),
                next_step="Policies go into .cedar files, attributes of principals into .toml files.",
            )
    for path in tests:
        cases += read_cases(path)
    return PolicyDocument("\n".join(texts), attributes, tuple(cases))


def read_cases(path: Path) -> tuple[PolicyCase, ...]:
    """Test cases of a TOML file (``[[case]]``) or a JSON file (``{"case": […]}``).

    Raises:
        SetupError: the file cannot be read.
        InvalidInputError: it is not of that form, or two cases have one name.
    """
    if path.suffix == ".json":
        try:
            document = msgspec.json.decode(_text(path))
        except msgspec.DecodeError as error:
            raise InvalidInputError(f"{path} is not JSON: {error}.", where=str(path)) from None
    else:
        document = _toml(path)
    cases = tuple(_expanded(_typed(path, document, _Cases).case))
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInputError(f"Two cases are named {twice[0]!r}.", where=str(path), next_step="Name each case once.")
    return cases


def _expanded(cases: Sequence[PolicyCase]) -> Iterator[PolicyCase]:
    """A case whose action or role lists several, divided by ``|``, is that many cases."""
    for case in cases:
        actions, roles = case.action.split("|"), case.principal.role.split("|")
        if len(actions) == len(roles) == 1:
            yield case
            continue
        for role in roles:
            for action in actions:
                yield msgspec.structs.replace(
                    case,
                    name=f"{case.name} [{role} {action}]",
                    action=action,
                    principal=msgspec.structs.replace(case.principal, role=role),
                )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(
            f"The policy file cannot be read: {error.strerror}.", where=str(path), next_step="Check its path."
        ) from error
    except UnicodeDecodeError:
        raise InvalidInputError("The file is not UTF-8 text.", where=str(path)) from None


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{path} is not TOML: {error}.", where=str(path)) from None


def _typed(path: Path, document: Any, shape: type[T]) -> T:
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"{error}.", where=str(path), next_step="See docs/policy.md for the form.") from None
