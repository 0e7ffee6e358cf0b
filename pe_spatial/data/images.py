"""Unlabeled images, wherever they lie.

Datasets of more files than a file system bears lie in tar files (the layout of WebDataset). WebDataset's own loader
streams: the order of its samples depends on the number of workers and the size of a buffer, and a resumed run starts a
new stream. Ours must be able to go to any sample (`DrawSampler`), so every tar gets an index of where its images begin,
and an image is one read at that place.
"""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mmengine.logging import print_log
from mmengine.registry import DATASETS

from pe_spatial.common.archives import read_images
from pe_spatial.common.sources import Kind, NoSources, Sources, Spec, resolve_sources
from pe_spatial.common.suffixes import IMAGE_SUFFIXES
from pe_spatial.data.dataset import DenseDataset


@DATASETS.register_module()
class ImageFolder(DenseDataset):
    """Images without labels; `img_id` counts them from 0 in their order.

    The index of a tar is written beside it when it is first opened (`NAME.tar.index.json`), and again when the tar has
    changed. In a folder that cannot be written it is made anew every time.

    Args:
        source: A folder, an image, a pattern, a `.txt` list, tar files, or several of them; see
            `pe_spatial.common.sources.resolve_sources`.
        extensions: What follows the first dot of a name in a tar, WebDataset's key for the parts of a sample:
            `0001.jpg` is an image, and `0001.mask.png` only if `mask.png` is among them.
        index_folder: Where the indices are, if not beside the tars.
        **kwargs: Those of `DenseDataset`.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)

    def __init__(
        self,
        source: Spec,
        extensions: Sequence[str] = IMAGE_SUFFIXES,
        index_folder: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        self.source = source
        self.extensions = tuple(extensions)
        self.index_folder = index_folder
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image; the `img_path` of one in a tar is the tar's path followed by the member's name."""
        entries = self.entries()
        if entries.warning:
            print_log(entries.warning, logger="current", level=logging.WARNING)
        return [
            {"img_path": str(entry.path), "img_id": number} | ({"archive": entry.archive} if entry.archive else {})
            for number, entry in enumerate(entries)
        ]

    def entries(self) -> Sources:
        """The images that `source` stands for, in its order."""
        read_tar = partial(read_images, extensions=self.extensions, index_folder=self.index_folder)
        return resolve_sources(self.source, self.kinds, read_tar=read_tar)

    def identities(self) -> list[tuple[str, int]]:
        """Name and bytes of every image, by `img_id`; they are the same wherever the whole list is moved.

        Names are paths below the deepest folder that holds all images; in a tar they begin with that of the tar. A file
        that is gone has 0 bytes.
        """
        entries = self.entries()
        folders = [os.path.dirname(os.path.abspath(entry.path)) for entry in entries if entry.archive is None]
        root = os.path.commonpath(folders) if folders else ""
        found = []
        for entry in entries:
            if entry.archive:
                found.append((f"{entry.file.name}/{entry.member}", entry.archive[2]))
            else:
                size = entry.path.stat().st_size if entry.path.is_file() else 0
                found.append((Path(os.path.relpath(entry.path, root)).as_posix(), size))
        return found


@DATASETS.register_module()
class TarImages(ImageFolder):
    """The images in tar files, and no others; `source` is one of them, a folder, a pattern or several of these."""

    kinds = ("tar",)


def find_images(source: Spec, recursive: bool = True) -> list[str]:
    """The paths of the image files that `source` stands for; see `pe_spatial.common.sources.resolve_sources`.

    Args:
        source: As `ImageFolder` takes it, without tar files.
        recursive: Whether to look into the folders of a folder.

    Raises:
        FileNotFoundError: Nothing by that name, or no image in it; names the suffixes looked for.
    """
    entries = resolve_sources(source, ["image"], recursive=recursive)
    if any(entry.archive for entry in entries):
        raise NoSources(
            f"{source} holds tar files; unpack them, because only datasets of images (ImageFolder) read tar files"
        )
    return [str(entry.path) for entry in entries]
