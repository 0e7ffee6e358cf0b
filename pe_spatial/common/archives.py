"""Images in tar files (the layout of WebDataset), reached one by one through an index of where each begins."""

import json
import os
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pe_spatial.common.errors import UnreadableFile, few
from pe_spatial.common.files import write_json
from pe_spatial.common.names import leaves
from pe_spatial.common.reading import open_regular, read_whole
from pe_spatial.common.suffixes import IMAGE_SUFFIXES

INDEX_SUFFIX = ".index.json"
_VERSION = 2  # 1 knew fewer suffixes

Member = tuple[str, int, int]  # name, offset of its first byte in the tar, bytes


def read_images(
    tar: str | Path, extensions: Sequence[str] = IMAGE_SUFFIXES, index_folder: str | Path | None = None
) -> list[Member]:
    """The images in a tar, in its order.

    Args:
        tar: A plain tar file.
        extensions: What may follow the first dot of a member's name, WebDataset's key for the parts of a sample.
        index_folder: Where the index is, if not beside the tar.

    Raises:
        FileNotFoundError: No such tar, or no such member in it.
        UnreadableFile: It is compressed, truncated or no tar; an image in it is a link, or leaves it by its name.
    """
    wanted = {extension.lower().lstrip(".") for extension in extensions}
    members = read_index(tar, index_folder)
    images = [member for member in members if PurePosixPath(member[0]).name.partition(".")[2].lower() in wanted]
    if not images:
        among = f"among {few(name for name, _, _ in members)}" if members else "at all"
        raise FileNotFoundError(f"{tar}: no member with the extension {' or '.join(sorted(wanted))} {among}")
    return images


def read_index(tar: str | Path, index_folder: str | Path | None = None) -> list[Member]:
    """The image files in a tar, from its index; the index is made where it is missing or the tar has changed.

    Raises:
        FileNotFoundError: No such tar.
        UnreadableFile: See `read_images`.
    """
    path = Path(tar)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such tar file")
    state = path.stat()
    stamp = {"version": _VERSION, "bytes": state.st_size, "modified": state.st_mtime_ns}
    index = Path(index_folder or path.parent) / (path.name + INDEX_SUFFIX)
    try:
        content = json.loads(read_whole(index))
        if {key: content.get(key) for key in stamp} == stamp:
            return _checked(path, [(str(name), int(offset), int(size)) for name, offset, size in content["members"]])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # missing, damaged or forged: it is only a copy of what the tar says
    members = _checked(path, _scan(path))
    with suppress(OSError):  # a folder for reading only, or a full disk
        index.parent.mkdir(parents=True, exist_ok=True)
        write_json(index, {**stamp, "members": members}, indent=None)
    return members


def _scan(path: Path) -> list[Member]:
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = [member for member in tar if _is_image(PurePosixPath(member.name)) and not member.isdir()]
            end = file.seek(0, os.SEEK_END)
        for member in members:
            if not 0 <= member.size <= end - member.offset_data:
                raise tarfile.ReadError(f"{member.name} of {member.size:,} bytes does not fit into it")
    except UnreadableFile:
        raise
    # what tarfile raises at absurd sizes in headers differs
    except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise UnreadableFile(
            f"{path} is not a complete, uncompressed tar ({reason}): copy a truncated file again, or unpack a "
            "compressed one (gunzip)"
        ) from error
    for member in members:
        if not member.isreg() or member.issparse():  # the bytes of a file with holes are not those in the tar
            raise UnreadableFile(
                f"{path}: {member.name} is a link, a device or a file with holes; pack the files themselves (tar -h)"
            )
    return [(member.name, member.offset_data, member.size) for member in members]


def _checked(path: Path, members: list[Member]) -> list[Member]:
    """Refuse names that leave the tar; an index that came with it may have them too."""
    for name, _, _ in members:
        if leaves(name):
            raise UnreadableFile(
                f"{path}: the member {name!r} points outside the tar; pack it with paths below one folder"
            )
    return members


def _is_image(name: PurePosixPath) -> bool:
    hidden = name.name.startswith(".") or "__MACOSX" in name.parts
    return name.suffix.lower() in IMAGE_SUFFIXES and not hidden
