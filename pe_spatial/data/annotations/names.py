"""The files that annotations name."""

from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError
from pe_spatial.common.names import leaves


def file_below(root: str | Path, name: Any, where: str) -> Path:  # noqa: ANN401 - whatever an annotation says
    """The file below a folder that an annotation, a list or an index names.

    Links inside the folder are the user's, and are followed.

    Args:
        root: The folder.
        name: A relative path with slashes.
        where: The entry that names it, for messages.

    Raises:
        AnnotationError: The name is none, or leaves the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise AnnotationError(f"{where}: the name of a file is {name!r}; write a path below {root}")
    if leaves(name):
        raise AnnotationError(
            f"{where}: the file {name!r} is outside its folder {root}; write a path below it, or link the files into it"
        )
    return Path(root, name)
