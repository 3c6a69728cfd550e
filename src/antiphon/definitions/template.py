"""Variables that a prompt template reads, found in its Jinja2 syntax tree without running it."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from antiphon.core.errors import InvalidInputError


class TemplateReads(msgspec.Struct, frozen=True):
    """Names that a template reads: ``(view, feature)`` with its line, entity keys with their line, other names."""

    features: tuple[tuple[str, str, int], ...]
    entity_keys: tuple[tuple[str, int], ...]
    whole: tuple[tuple[str, int], ...]
    """Uses of ``features`` or ``features.VIEW`` that do not name one feature."""
    names: frozenset[str]
    retrieved: tuple[tuple[str, int], ...] = ()
    """Retrievals with their lines."""


@lru_cache(maxsize=256)
def template_reads(text: str) -> TemplateReads:
    """Parse a template as the sandbox would; raises ``InvalidInputError`` when its syntax is wrong, whose ``where`` is
    the line."""
    from jinja2 import TemplateSyntaxError, meta, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment()
    try:
        tree = environment.parse(text)
        undeclared = frozenset(meta.find_undeclared_variables(tree))
    except TemplateSyntaxError as error:
        raise InvalidInputError(f"template syntax: {error.message}.", where=f"line {error.lineno}") from None
    except ValueError as error:  # a number with more digits than Python reads
        raise InvalidInputError(f"template syntax: {error}.", where="line 1") from None
    except RecursionError:
        raise InvalidInputError("template syntax: it is nested too deeply.", where="line 1") from None

    features: list[tuple[str, str, int]] = []
    keys: list[tuple[str, int]] = []
    whole: list[tuple[str, int]] = []
    retrieved: list[tuple[str, int]] = []

    def walk(node: nodes.Node) -> None:
        path = _path(node)
        if path is None:
            for child in node.iter_child_nodes():
                walk(child)
        elif path[0] == "features":
            if len(path) >= 3:
                features.append((path[1], path[2], node.lineno))
            else:
                whole.append((".".join(path), node.lineno))
        elif path[0] == "entity" and len(path) >= 2:
            keys.append((path[1], node.lineno))
        elif path[0] == "retrieved" and len(path) >= 2:
            retrieved.append((path[1], node.lineno))

    def _path(node: nodes.Node) -> list[str] | None:
        if isinstance(node, nodes.Name):
            return [node.name] if node.ctx == "load" else None
        if isinstance(node, nodes.Getattr):
            name = node.attr
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            name = node.arg.value
        else:
            return None
        before = _path(node.node)
        return None if before is None else [*before, name]

    walk(tree)
    return TemplateReads(tuple(features), tuple(keys), tuple(whole), undeclared, tuple(retrieved))
