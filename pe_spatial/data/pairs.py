"""Images and their labels in two folders, paired by name."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import print_log

from pe_spatial.common.errors import OptionError, few
from pe_spatial.common.sources import Sources, natural_order
from pe_spatial.common.suffixes import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Affixes:
    """What file names have besides the name that an image and its label share.

    Attributes:
        image: What stands before and behind the name of an image, such as `("", "_leftImg8bit")`.
        label: Likewise of a label, such as `("", "_gtFine_labelIds")`.
    """

    image: tuple[str, str] = ("", "")
    label: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        """The rule by which files are paired."""
        if not any((*self.image, *self.label)):
            return "the name without suffix"
        return " and ".join(f"{start}NAME{end}.*" for start, end in (self.image, self.label))


def pair_by_name(
    data_prefix: Mapping[str, str],
    label_key: str,
    label_suffixes: Sequence[str],
    kind: str,
    affixes: Affixes = Affixes(),  # noqa: B008 - they cannot be changed
    settings: bool = False,
) -> list[tuple[Path, Path]]:
    """Pairs of an image and a label of one name, in natural order. Subfolders are searched, and are part of the name.

    What is neither, by its suffix, is counted in the log.

    Args:
        data_prefix: A dataset's folders: `img_path` and the one of the labels.
        label_key: Key of the latter.
        label_suffixes: Such as `.png`; files with others are no labels.
        kind: What a label is called in messages, such as `label map`.
        affixes: What names have beyond the common one; files without it belong to something else.
        settings: Whether the dataset has the options `image_stem_start`, `image_stem_end`, `label_stem_start` and
            `label_stem_end`, which a message may propose.

    Raises:
        FileNotFoundError: A folder is missing.
        OptionError: An image without a label or with two, or a label without an image; `data_prefix` lacks a folder.
    """
    image_folder, label_folder = (_folder(data_prefix, key, label_key) for key in ("img_path", label_key))
    all_images, all_labels = list(_files(image_folder)), list(_files(label_folder))
    if image_folder == label_folder and any(affixes.label):  # labels lie beside their images
        all_images = [path for path in all_images if not _has(path.stem, affixes.label)]
    images = _by_name(image_folder, all_images, IMAGE_SUFFIXES, affixes.image)
    labels = _by_name(label_folder, all_labels, label_suffixes, affixes.label)
    for missing, what, folder, files, suffixes in (
        (images.keys() - labels.keys(), f"no {kind}", label_folder, all_labels, label_suffixes),
        (labels.keys() - images.keys(), "no image", image_folder, all_images, IMAGE_SUFFIXES),
    ):
        if missing:
            names = natural_order(missing)
            reason = (
                _of_other_suffix(names, folder, files, suffixes, "images" if what == "no image" else f"{kind}s")
                or _of_other_affixes(image_folder, all_images, label_folder, all_labels, label_suffixes, kind, settings)
                or f"files are paired by {affixes}"
            )
            raise OptionError(
                f"{what} for {len(missing)} of {len(images | labels)} names ({few(names)}) in {folder}; {reason}"
            )
    _count_left_out(image_folder, all_images, IMAGE_SUFFIXES)
    if label_folder != image_folder:
        _count_left_out(label_folder, all_labels, label_suffixes)
    return [(images[name], labels[name]) for name in natural_order(images)]


def _folder(data_prefix: Mapping[str, str], key: str, label_key: str) -> Path:
    if key not in data_prefix:
        raise OptionError(f"data_prefix {data_prefix} lacks {key}; it must give the folders img_path and {label_key}")
    folder = Path(data_prefix[key])
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} (data_prefix.{key}) is not a folder")
    return folder


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if not path.name.startswith("."))


def _by_name(folder: Path, files: Iterable[Path], suffixes: Sequence[str], affix: tuple[str, str]) -> dict[str, Path]:
    """Files below a folder by their path without folder, affixes and suffix."""
    found: dict[str, Path] = {}
    start, end = affix
    for path in files:
        stem = path.stem
        if path.suffix.lower() not in suffixes or not _has(stem, affix):
            continue
        name = (path.relative_to(folder).parent / stem[len(start) : len(stem) - len(end)]).as_posix()
        if name in found:
            raise OptionError(f"{found[name]} and {path} have the same name; keep one of them")
        found[name] = path
    return found


def _has(stem: str, affix: tuple[str, str]) -> bool:
    return len(stem) >= len(affix[0] + affix[1]) and stem.startswith(affix[0]) and stem.endswith(affix[1])


# --- why names have no partner ----------------------------------------------------------------------------------------
def _of_other_suffix(
    names: Sequence[str], folder: Path, files: Iterable[Path], suffixes: Sequence[str], kind: str
) -> str:
    """A file of the name that is missing, but with a suffix that is not read."""
    wanted = set(names)
    for path in files:
        relative = path.relative_to(folder)
        if relative.with_suffix("").as_posix() in wanted and path.suffix.lower() not in suffixes and path.is_file():
            lossy = ", because JPEG changes the values of pixels" if path.suffix.lower() in (".jpg", ".jpeg") else ""
            return (
                f"{relative} lies there, and {kind} are read from {', '.join(suffixes)}{lossy}; convert such files to "
                "one of these"
            )
    return ""


def _of_other_affixes(
    image_folder: Path,
    images: Iterable[Path],
    label_folder: Path,
    labels: Iterable[Path],
    label_suffixes: Sequence[str],
    kind: str,
    settings: bool,
) -> str:
    """What names of labels have that those of their images have not, where at least half of the images show it."""
    stems = {path.stem for path in images if path.suffix.lower() in IMAGE_SUFFIXES}
    others = [path.stem for path in labels if path.suffix.lower() in label_suffixes and path.stem not in stems]
    found = _shared(stems, others) or _stripped(stems, others)
    if found is None:
        return ""
    proposals = [
        f"{side}_stem_{place}: {text}"
        for side, affix in (("image", found.image), ("label", found.label))
        for place, text in zip(("start", "end"), affix, strict=True)
        if text
    ]
    example = f"{few(natural_order(others), 1)} in {label_folder}"
    remedy = f"set {' and '.join(proposals)}" if settings else f"rename them; files are paired by {Affixes()}"
    return f"{kind}s are named {found.label[0]}NAME{found.label[1]} ({example}): {remedy}"


def _shared(stems: set[str], others: Sequence[str]) -> Affixes | None:
    """An affix around the whole name of the image: 001 and 001_mask."""
    counts: Counter[tuple[str, str]] = Counter()
    lengths = sorted({len(stem) for stem in stems}, reverse=True)
    for other in others:
        for length in lengths:
            places = range(len(other) - length + 1)
            start = next((place for place in places if other[place : place + length] in stems), None)
            if start is not None:
                counts[other[:start], other[start + length :]] += 1
                break
    best = counts.most_common(1)
    return Affixes(label=best[0][0]) if best and 2 * best[0][1] >= len(stems) else None


def _stripped(stems: set[str], others: Sequence[str]) -> Affixes | None:
    """Affixes of both: img_001 and mask_001."""
    ends = [_affix_of(sorted(stems)), _affix_of(others)]
    names = [
        {name[len(start) : len(name) - len(end)] for name in group}
        for group, (start, end) in zip((stems, others), ends, strict=True)
    ]
    return Affixes(*ends) if stems and 2 * len(names[0] & names[1]) > len(stems) else None


def _affix_of(stems: Sequence[str]) -> tuple[str, str]:
    """What all names begin and end with, up to their digits."""
    if len(stems) < 2:
        return "", ""
    start = os.path.commonprefix(stems).rstrip("0123456789")
    end = os.path.commonprefix([stem[len(start) :][::-1] for stem in stems])[::-1].lstrip("0123456789")
    return start, end


# --- what is not read -------------------------------------------------------------------------------------------------
def _count_left_out(folder: Path, files: Iterable[Path], suffixes: Sequence[str]) -> None:
    left = Counter(path.suffix.lower() for path in files if path.suffix.lower() not in suffixes and path.is_file())
    text = Sources((), folder, left).warning
    if text:
        print_log(text, logger="current", level=logging.WARNING)


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
