"""Nested containers, such as configs."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

ABSENT = object()  # stands for an entry that is not there


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


def differences(before: Any, after: Any) -> Iterator[str]:  # noqa: ANN401 - any nodes
    """What differs between two nested mappings and lists: `dotted.key: value before → value after` for each entry."""
    for where, values in divergences([before, after]):
        yield f"{where}: {' → '.join(map(short, values))}"


def divergences(trees: Sequence[Any], where: str = "") -> Iterator[tuple[str, list[Any]]]:
    """What differs among nested mappings and lists: dotted key and the value in each of them, `ABSENT` if it has none.

    Args:
        trees: Two or more.
        where: The dotted key of the trees.
    """
    if all(isinstance(tree, dict) for tree in trees):
        for key in {key: None for tree in trees for key in tree}:
            yield from divergences([tree.get(key, ABSENT) for tree in trees], f"{where}.{key}" if where else key)
    elif all(isinstance(tree, list) and len(tree) == len(trees[0]) for tree in trees):
        for index, nodes in enumerate(zip(*trees, strict=True)):
            yield from divergences(nodes, f"{where}.{index}")
    elif any(tree is ABSENT or tree != trees[0] for tree in trees):
        yield where, list(trees)


def short(value: object) -> str:
    """A value of an entry in at most 80 letters."""
    if value is ABSENT:
        return "not set"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
