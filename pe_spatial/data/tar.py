"""Unlabeled images in tar files (the layout of WebDataset), for datasets of more files than a file system bears.

WebDataset's own loader streams: the order of its samples depends on the number of workers and the size of a buffer, and
a resumed run starts a new stream. Ours must be able to go to any sample (`DrawSampler`), so every tar gets an index of
where its images begin, and an image is one read at that place.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from pe_spatial.common.archives import read_images
from pe_spatial.common.sources import Entry, Spec, resolve_sources
from pe_spatial.common.suffixes import IMAGE_SUFFIXES
from pe_spatial.data.images import ImageFolder


@DATASETS.register_module()
class TarImages(ImageFolder):
    """The images in tar files, in the order of the files and of their members; `img_id` counts them from 0.

    The index of a tar is written beside it when it is first opened (`NAME.tar.index.json`), and again when the tar has
    changed. In a folder that cannot be written it is made anew every time.

    Args:
        source: A folder of tar files, one of them, a pattern such as `shards/train-*.tar`, or several of these.
        extensions: What follows the first dot of a member's name, WebDataset's key for the parts of a sample:
            `0001.jpg` is an image, and `0001.mask.png` only if `mask.png` is among them.
        index_folder: Where the indices are, if not beside the tars.
        **kwargs: Those of `DenseDataset`.
    """

    def __init__(
        self,
        source: Spec,
        extensions: Sequence[str] = IMAGE_SUFFIXES,
        index_folder: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        self.extensions = tuple(extensions)
        self.index_folder = index_folder
        super().__init__(source, **kwargs)

    def entries(self) -> Sequence[Entry]:
        """The images of all tars; their names begin with that of the tar, without its folder."""
        tars = [entry.path for entry in resolve_sources(self.source, ["tar"])]
        return [
            Entry(tar / name, "image", f"{tar.name}/{name}", (str(tar), offset, size))
            for tar in tars
            for name, offset, size in read_images(tar, self.extensions, self.index_folder)
        ]

    def identities(self) -> list[tuple[str, int]]:
        """Names begin with that of the tar, without its folder."""
        return [(entry.name, entry.archive[2]) for entry in self.entries() if entry.archive]


def open_images(source: Spec, **kwargs: Any) -> ImageFolder:
    """`TarImages` where the source is or holds tar files, else `ImageFolder`."""
    holds_tars = any(entry.kind == "tar" for entry in resolve_sources(source, ["image"], unpack=False))
    return TarImages(source, **kwargs) if holds_tars else ImageFolder(source, **kwargs)
