"""Unlabeled images: a folder, a glob or a list file."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from pe_spatial.common.pictures import IMAGE_SUFFIXES
from pe_spatial.data.dataset import DenseDataset
from pe_spatial.data.loading import is_image_name, list_images, natural_order


class ImageList(DenseDataset):
    """Base of datasets of unlabeled images: `img_id` counts from 0 through a list that can be told from another."""

    def identities(self) -> list[tuple[str, int]]:
        """Name and bytes of every image, by `img_id`; they are the same wherever the whole list is moved."""
        raise NotImplementedError


@DATASETS.register_module()
class ImageFolder(ImageList):
    """Images without labels; `img_id` counts them from 0 in their order.

    Args:
        source: A folder (searched recursively, in natural order), one image, a glob such as `frames/*.png`, a `.txt`
            file with one path per line (relative to that file; kept in its order), or a list of paths.
        **kwargs: Those of `DenseDataset`.
    """

    def __init__(self, source: str | Path | Sequence[str | Path], **kwargs: Any) -> None:
        self.source = source
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image."""
        return [{"img_path": path, "img_id": number} for number, path in enumerate(find_images(self.source))]

    def identities(self) -> list[tuple[str, int]]:
        """Paths below the deepest folder that holds all images; a file that is gone has 0 bytes."""
        paths = [os.path.abspath(path) for path in find_images(self.source)]
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        return [
            (Path(os.path.relpath(path, root)).as_posix(), os.stat(path).st_size if os.path.isfile(path) else 0)
            for path in paths
        ]


def find_images(source: str | Path | Sequence[str | Path]) -> list[str]:
    """The image paths that `ImageFolder`'s `source` stands for.

    Raises:
        FileNotFoundError: Nothing by that name, or no image in it; names the suffixes looked for.
    """
    if not isinstance(source, str | Path):
        return [str(path) for path in source]
    path = Path(source)
    if path.is_dir():
        return list_images(path, recursive=True)
    if path.is_file():
        return _read_list(path) if path.suffix.lower() == ".txt" else [str(path)]
    found = [name for name in glob.glob(str(source), recursive=True) if is_image_name(Path(name))]
    if not found:
        raise FileNotFoundError(
            f"{source} is no folder, image, list file (.txt) or glob that matches images; looked for the suffixes "
            f"{' '.join(IMAGE_SUFFIXES)}"
        )
    return natural_order(found)


def _read_list(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise FileNotFoundError(f"{path} names no image; write one path per line")
    return [str(path.parent / name) for name in names]
