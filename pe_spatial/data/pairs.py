"""Images and their labels in two folders, paired by name."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pe_spatial.common.errors import OptionError, few
from pe_spatial.common.sources import natural_order
from pe_spatial.common.suffixes import IMAGE_SUFFIXES


def pair_by_name(
    data_prefix: Mapping[str, str],
    label_key: str,
    label_suffixes: Sequence[str],
    kind: str,
    stem_ends: tuple[str, str] = ("", ""),
) -> list[tuple[Path, Path]]:
    """Pairs of an image and a label of one name, in natural order. Subfolders are searched, and are part of the name.

    Args:
        data_prefix: A dataset's folders: `img_path` and the one of the labels.
        label_key: Key of the latter.
        label_suffixes: Such as `.png`; files with others are no labels.
        kind: What a label is called in messages, such as `label map`.
        stem_ends: What image names and label names have before their suffix beyond the common name, such as
            `("_leftImg8bit", "_gtFine_labelIds")`; files without it belong to something else.

    Raises:
        FileNotFoundError: A folder is missing.
        OptionError: An image without a label or with two, or a label without an image; `data_prefix` lacks a folder.
    """
    folders = [_folder(data_prefix, key, label_key) for key in ("img_path", label_key)]
    images, labels = (
        _by_name(folders[0], IMAGE_SUFFIXES, stem_ends[0]),
        _by_name(folders[1], label_suffixes, stem_ends[1]),
    )
    for missing, what, folder in (
        (images.keys() - labels.keys(), f"no {kind}", folders[1]),
        (labels.keys() - images.keys(), "no image", folders[0]),
    ):
        if missing:
            rule = " and ".join(f"NAME{end}.*" for end in stem_ends) if any(stem_ends) else "the name without suffix"
            raise OptionError(
                f"{what} for {len(missing)} of {len(images | labels)} names ({few(natural_order(missing))}) in "
                f"{folder}; files are paired by {rule}"
            )
    return [(images[name], labels[name]) for name in natural_order(images)]


def _folder(data_prefix: Mapping[str, str], key: str, label_key: str) -> Path:
    if key not in data_prefix:
        raise OptionError(f"data_prefix {data_prefix} lacks {key}; it names the folders img_path and {label_key}")
    folder = Path(data_prefix[key])
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} (data_prefix.{key}) is not a folder")
    return folder


def _by_name(folder: Path, suffixes: Sequence[str], stem_end: str) -> dict[str, Path]:
    """Files below a folder by their path without folder, stem end and suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.stem.endswith(stem_end):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix().removesuffix(stem_end)
        if name in found:
            raise OptionError(f"{found[name]} and {path} have one name; keep one of them")
        found[name] = path
    return found


def find_absent(paths: Iterable[str]) -> list[str]:
    """The files that do not exist, in order; from the listings of their folders, cheaper than asking for every file."""
    present: dict[str, set[str]] = {}
    absent = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in present:
            present[folder] = set(os.listdir(folder or ".")) if Path(folder).is_dir() else set()
        if name not in present[folder]:
            absent.append(path)
    return absent
