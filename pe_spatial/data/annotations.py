"""Annotation files in JSON."""

import json
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError, UnreadableFile
from pe_spatial.common.reading import read_whole


def read_annotations(path: str | Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The content of a JSON file.

    Raises:
        AnnotationError: No such file, one that cannot be read, or no JSON, or JSON nested without end.
    """
    try:
        text = read_whole(path)
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such annotation file; check data_root and ann_file") from None
    except UnreadableFile as error:
        raise AnnotationError(str(error)) from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return json.loads(text)
    except RecursionError:
        raise AnnotationError(f"{path}: lists in lists without end, or too many; it is damaged") from None
    except ValueError as error:  # also for text that is not UTF-8, and for numbers of thousands of digits
        start = text[:40].decode("utf-8", "replace").strip()
        raise AnnotationError(f"{path}: not JSON: {error} (it begins with {start!r})") from None
