"""Annotation files in JSON."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError


def read_annotations(path: str | Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The content of a JSON file.

    Raises:
        AnnotationError: No such file, one that cannot be read, or no JSON.
    """
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such annotation file; check data_root and ann_file") from None
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        start = text[:40].decode("utf-8", "replace").strip()
        raise AnnotationError(f"{path}: not JSON: {error} (it begins with {start!r})") from None


@contextmanager
def naming_entries(path: str | Path) -> Iterator[None]:
    """In the block, an entry that lacks a field or has one of another kind is a mistake of the file.

    Raises:
        AnnotationError: Names the file.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise AnnotationError(
            f"{path}: an entry lacks a field or has one of another kind ({type(error).__name__}: {error})"
        ) from error
