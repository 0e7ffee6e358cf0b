"""Nested containers, such as configs."""

from collections.abc import Iterator
from typing import Any


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
