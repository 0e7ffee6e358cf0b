"""Nested containers, such as configs."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

_ABSENT = object()


def sections(tree: Any, without: str | None = None) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any node of it
    """Every mapping in nested mappings and lists, the outer ones first; each may be changed when it is yielded.

    Args:
        tree: The whole.
        without: A key below which nothing is looked at.
    """
    if isinstance(tree, dict):
        yield tree
        tree = [value for key, value in tree.items() if key != without]
    for value in tree if isinstance(tree, list | tuple) else ():
        yield from sections(value, without)


def entries(tree: Any, prefix: str = "") -> Iterator[tuple[str, str, Any, dict[str, Any]]]:  # noqa: ANN401
    """(dotted key, key, value, mapping that has it) of every entry of every mapping, the outer ones first."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in pairs:
        where = f"{prefix}{key}"
        if isinstance(tree, dict):
            yield where, str(key), value, tree
        yield from entries(value, f"{where}.")


def joined(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, each over those before it; nothing is shared with them."""
    merged: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            old = merged.get(key)
            both = isinstance(old, dict) and isinstance(value, Mapping)
            merged[key] = joined(old, value) if both and old is not None else deepcopy(value)
    return merged


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:  # noqa: ANN401 - any nodes
    """What differs between two nested mappings and lists: `dotted.key: value before → value after` for each entry."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            below = f"{where}.{key}" if where else key
            yield from differences(before.get(key, _ABSENT), after.get(key, _ABSENT), below)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{where}.{index}")
    elif before is _ABSENT or after is _ABSENT or before != after:
        yield f"{where}: {_short(before)} → {_short(after)}"


def _short(value: object) -> str:
    if value is _ABSENT:
        return "not set"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
