"""Unlabeled images, wherever they lie."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from pe_spatial.common.sources import Entry, NoSources, Spec, resolve_sources
from pe_spatial.data.dataset import DenseDataset


@DATASETS.register_module()
class ImageFolder(DenseDataset):
    """Images without labels; `img_id` counts them from 0 in their order.

    Args:
        source: A folder, an image, a pattern, a `.txt` list, tar files, or several of them; see
            `pe_spatial.common.sources.resolve_sources`.
        **kwargs: Those of `DenseDataset`.
    """

    def __init__(self, source: Spec, **kwargs: Any) -> None:
        self.source = source
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image; the `img_path` of one in a tar is the tar's path followed by the member's name."""
        return [
            {"img_path": str(entry.path), "img_id": number} | ({"archive": entry.archive} if entry.archive else {})
            for number, entry in enumerate(self.entries())
        ]

    def entries(self) -> Sequence[Entry]:
        """What `source` stands for, in its order."""
        return resolve_sources(self.source, ["image"])

    def identities(self) -> list[tuple[str, int]]:
        """Name and bytes of every image, by `img_id`; they are the same wherever the whole list is moved.

        Names are paths below the deepest folder that holds all images; a file that is gone has 0 bytes.
        """
        entries = self.entries()
        paths = [os.path.abspath(entry.path) for entry in entries]
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        sizes = [
            entry.archive[2] if entry.archive else os.stat(path).st_size if os.path.isfile(path) else 0
            for entry, path in zip(entries, paths, strict=True)
        ]
        return [(Path(os.path.relpath(path, root)).as_posix(), size) for path, size in zip(paths, sizes, strict=True)]


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
        raise NoSources(f"{source} holds tar files; unpack them, for only data sets of images (TarImages) read them")
    return [str(entry.path) for entry in entries]
