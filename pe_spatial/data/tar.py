"""Unlabeled images in tar files (the layout of WebDataset), for data sets of more files than a file system bears.

WebDataset's own loader streams: the order of its samples depends on the number of workers and the size of a buffer, and
a resumed run starts a new stream. Ours must be able to go to any sample (`DrawSampler`), so every tar gets an index of
where its images begin, and an image is one read at that place.
"""

import glob
import json
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.files import write_json
from pe_spatial.common.pictures import IMAGE_SUFFIXES
from pe_spatial.data.images import ImageFolder, ImageList
from pe_spatial.data.loading import is_image_name, natural_order

INDEX_SUFFIX = ".index.json"
_VERSION = 1

Member = tuple[str, int, int]  # name, offset of its first byte in the tar, bytes


@DATASETS.register_module()
class TarImages(ImageList):
    """The images in tar files, in the order of the files and of their members; `img_id` counts them from 0.

    The index of a tar is written beside it when it is first opened (`NAME.tar.index.json`), and again when the tar has
    changed. In a folder that cannot be written it is made anew every time.

    Args:
        source: A folder of tar files, one of them, a glob such as `shards/train-*.tar`, or a list of paths.
        extensions: What follows the first dot of a member's name, WebDataset's key for the parts of a sample:
            `0001.jpg` is an image, and `0001.mask.png` only if `mask.png` is among them.
        index_folder: Where the indices are, if not beside the tars.
        **kwargs: Those of `DenseDataset`.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        extensions: Sequence[str] = IMAGE_SUFFIXES,
        index_folder: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        self.source = source
        self.extensions = tuple(extension.lower().lstrip(".") for extension in extensions)
        self.index_folder = index_folder
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image; its `img_path` is the tar's path followed by the member's name."""
        found = [(tar, member) for tar in find_tars(self.source) for member in self._images(tar)]
        return [
            {"img_path": f"{tar}/{name}", "archive": (tar, offset, num_bytes), "img_id": number}
            for number, (tar, (name, offset, num_bytes)) in enumerate(found)
        ]

    def identities(self) -> list[tuple[str, int]]:
        """Names begin with that of the tar, without its folder."""
        tars = find_tars(self.source)
        return [(f"{Path(tar).name}/{name}", size) for tar in tars for name, _, size in self._images(tar)]

    def _images(self, tar: str) -> list[Member]:
        members = read_index(tar, self.index_folder)
        images = [member for member in members if _extension(member[0]) in self.extensions]
        if not images:
            among = f"among {', '.join(name for name, _, _ in members[:3])}, …" if members else "at all"
            raise FileNotFoundError(f"{tar}: no member with the extension {' or '.join(self.extensions)} {among}")
        return images


def open_images(source: str | Path | Sequence[str | Path], **kwargs: Any) -> ImageList:
    """`TarImages` where the source is or holds tar files, else `ImageFolder`."""
    holds_tars = isinstance(source, str | Path) and (
        str(source).endswith(".tar") or (Path(source).is_dir() and any(Path(source).glob("*.tar")))
    )
    return TarImages(source, **kwargs) if holds_tars else ImageFolder(source, **kwargs)


def find_tars(source: str | Path | Sequence[str | Path]) -> list[str]:
    """The tar files that `TarImages`' `source` stands for, in natural order (a list keeps its own).

    Raises:
        FileNotFoundError: There are none.
    """
    if not isinstance(source, str | Path):
        return [str(path) for path in source]
    path = Path(source)
    if path.is_file():
        return [str(path)]
    tars = natural_order(path.glob("*.tar") if path.is_dir() else glob.glob(str(source), recursive=True))
    if not tars:
        raise FileNotFoundError(f"{source} is no tar file, no folder of *.tar files and no glob that matches some")
    return tars


def read_index(tar: str | Path, index_folder: str | Path | None = None) -> list[Member]:
    """The image files in a tar, from its index; the index is made where it is missing or the tar has changed.

    Raises:
        FileNotFoundError: No such tar.
        UnreadableFile: It is compressed, truncated or no tar.
    """
    path = Path(tar)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such tar file")
    state = path.stat()
    stamp = {"version": _VERSION, "bytes": state.st_size, "modified": state.st_mtime_ns}
    index = Path(index_folder or path.parent) / (path.name + INDEX_SUFFIX)
    try:
        content = json.loads(index.read_text())
        if {key: content.get(key) for key in stamp} == stamp:
            return [(name, offset, size) for name, offset, size in content["members"]]
    except (OSError, ValueError, AttributeError):
        pass  # missing or damaged: it is only a copy of what the tar says
    members = _scan(path)
    with suppress(OSError):  # a folder for reading only, or a full disk
        index.parent.mkdir(parents=True, exist_ok=True)
        write_json(index, {**stamp, "members": members}, indent=None)
    return members


def _scan(path: Path) -> list[Member]:
    try:
        with tarfile.open(path, "r:") as tar:
            files = [(member.name, member.offset_data, member.size) for member in tar if member.isreg()]
    except tarfile.TarError as error:
        raise UnreadableFile(
            f"{path} is no whole, plain tar ({error}): copy a truncated one again, unpack a compressed one (gunzip), "
            "for its images cannot be reached one by one"
        ) from error
    return [member for member in files if is_image_name(Path(member[0]))]


def _extension(name: str) -> str:
    return Path(name).name.partition(".")[2].lower()
