"""The place of a measured table in a document."""

from pathlib import Path

from pe_spatial.common.errors import UserError
from pe_spatial.common.files import write_text


def write_between(path: Path, begin: str, end: str, content: str) -> None:
    """Replace what stands between two marks of a document.

    Raises:
        UserError: It does not have each of them once, in their order.
        OSError: It cannot be read or written.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(f"{path}: has no place for the table; put these two lines where it should be:\n{begin}\n{end}")
    before, rest = text.split(begin)
    write_text(path, f"{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}")
