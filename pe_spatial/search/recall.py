"""Captions of pictures, and how often search finds one by the other: recall at 1, 5 and 10.

Letters: T captions, N rows of the index, K results of a query.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.errors import AnnotationError, OptionError, few
from pe_spatial.common.reading import read_json
from pe_spatial.search.index import Index
from pe_spatial.search.product import nearest
from pe_spatial.zero_shot.truth import read_pairs

LEVELS = (1, 5, 10)

Caption = tuple[str, str]  # the name of a picture, and a text


def read_captions(path: Path) -> list[Caption]:
    """The captions of a file, in its order.

    Args:
        path: A JSON file in the format of COCO's captions (`images` with `id` and `file_name`, `annotations` with
            `image_id` and `caption`), or one that maps the name of each picture to a caption or a list of them; or a
            CSV with a picture and a caption in each line.

    Raises:
        AnnotationError: No captions, an empty one, or one of an unknown picture.
        UnreadableFile: The file is damaged.
    """
    if path.suffix.lower() == ".csv":
        captions = read_pairs(path, "caption")
    else:
        content = read_json(path)
        if not isinstance(content, dict):
            raise AnnotationError(
                f"{path} contains a {type(content).__name__}; write COCO's captions, or names to texts"
            )
        captions = _of_coco(path, content) if "annotations" in content else _of_mapping(path, content)
    if not captions:
        raise AnnotationError(f"{path} has no captions; give a file with at least one")
    for name, text in captions:
        if not text.strip():
            raise AnnotationError(f"{path}: a caption of {name} is empty; remove it")
    return captions


def _of_coco(path: Path, content: Mapping[str, Any]) -> list[Caption]:
    try:
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        pairs = [(item["image_id"], item["caption"]) for item in content["annotations"]]
    except (KeyError, TypeError) as error:
        raise AnnotationError(
            f"{path} is not a file of COCO captions ({error!r}): images have id and file_name, annotations image_id "
            "and caption"
        ) from error
    strangers = [image for image, _ in pairs if image not in names]
    if strangers:
        raise AnnotationError(
            f"{path}: {len(strangers)} captions belong to images that it does not list ({few(strangers)})"
        )
    return [(names[image], _text(path, names[image], caption)) for image, caption in pairs]


def _of_mapping(path: Path, content: Mapping[str, Any]) -> list[Caption]:
    return [
        (name, _text(path, name, text))
        for name, texts in content.items()
        for text in (texts if isinstance(texts, list) else [texts])
    ]


def _text(path: Path, name: str, caption: object) -> str:
    if not isinstance(caption, str):
        raise AnnotationError(f"{path}: a caption of {name} is {str(caption)[:60]!r}, not text")
    return caption


# --- which rows are right ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Truth:
    """Which captions and rows belong together.

    Attributes:
        texts: T captions of pictures that are in the index; a text may come several times.
        rows: Of each caption, the row of its picture; int64 [T].
        missing: Captions whose picture is not in the index.
        uncaptioned: Rows without a caption; texts may find them, by mistake.
    """

    texts: tuple[str, ...]
    rows: NDArray[np.int64]
    missing: tuple[Caption, ...]
    uncaptioned: int

    @property
    def kinds(self) -> NDArray[np.int64]:
        """A number for each different text, int64 [T]."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(text, len(numbers)) for text in self.texts], np.int64)


def match(index: Index, captions: Sequence[Caption]) -> Truth:
    """Find the rows of captions: by the whole name, or by its end where that is the end of one name only.

    Raises:
        OptionError: No caption belongs to the index, or it has several rows for a video.
    """
    by_name: dict[str, int] = {}
    by_last: dict[str, list[str]] = defaultdict(list)
    for number, row in enumerate(index.rows()):
        if row.time is not None:
            raise OptionError(
                f"{index.folder} has a row for each frame of {row.name}, and recall needs one for a video: index with "
                "--video-rows classification or retrieval"
            )
        by_name[row.name] = number
        by_last[row.name.rpartition("/")[2]].append(row.name)
    found, missing = [], []
    for name, text in captions:
        ends = [one for one in by_last[name.rpartition("/")[2]] if one.endswith(f"/{name}")]
        place = by_name.get(name, by_name[ends[0]] if len(ends) == 1 else None)
        if place is None:
            missing.append((name, text))
        else:
            found.append((text, place))
    if not found:
        raise OptionError(
            f"none of the {len(captions)} captions is of a file in {index.folder}: they name {captions[0][0]}, the "
            f"index {next(iter(by_name))}"
        )
    rows = np.array([place for _, place in found], np.int64)
    return Truth(tuple(text for text, _ in found), rows, tuple(missing), len(by_name) - len(np.unique(rows)))


# --- the measure ------------------------------------------------------------------------------------------------------
def evaluate(index: Index, truth: Truth) -> dict[str, Any]:
    """Recall of an index for its captions; see `recall`."""
    vectors = index.text_vectors(list(truth.texts))
    counts = {"captions": len(truth.texts), "captions_without_picture": len(truth.missing)}
    counts |= {"pictures": len(np.unique(truth.rows)), "pictures_without_caption": truth.uncaptioned}
    return {**counts, **recall(index.embeddings, vectors, truth.rows, truth.kinds)}


def recall(
    embeddings: NDArray[np.floating], vectors: NDArray[np.floating], rows: NDArray[np.int64], kinds: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """How many queries have a right result among the first 1, 5 and 10, as the official code counts.

    Every caption is a query for pictures, and every picture with captions one for captions. It is a hit if any right
    result is among the first K. Equal captions share what is right: each finds the pictures of all of them.

    Args:
        embeddings: Of pictures, [N, D].
        vectors: Of captions, [T, D].
        rows: The picture of each caption, [T].
        kinds: Equal for captions with equal texts, [T].

    Returns:
        `text_to_image` and `image_to_text`, each with `R@1`, `R@5` and `R@10` from 0 to 1, and `chance@1` and so on:
        what a random order would have on average.
    """
    right = np.unique(kinds * len(embeddings) + rows)  # pairs of a text and a picture, as one number
    _, found = nearest(embeddings, vectors, LEVELS[-1])
    of_texts = np.isin(kinds[:, None] * len(embeddings) + found, right)
    pictures = np.unique(rows)
    _, found = nearest(vectors, np.asarray(embeddings[pictures], np.float32), LEVELS[-1])
    of_pictures = np.isin(kinds[found] * len(embeddings) + pictures[:, None], right)

    pictures_of = np.bincount(right // len(embeddings))  # by kind
    copies = np.bincount(kinds)  # captions with this text
    captions_of = np.bincount(right % len(embeddings), copies[right // len(embeddings)], len(embeddings))
    return {
        "text_to_image": _levels(of_texts, pictures_of[kinds], len(embeddings)),
        "image_to_text": _levels(of_pictures, captions_of[pictures], len(vectors)),
    }


def _levels(right: NDArray[np.bool_], positives: NDArray[Any], among: int) -> dict[str, float]:
    """Recall and its chance; `right` [Q, K], `positives` [Q] of `among` possible results."""
    found = {f"R@{level}": float(right[:, :level].any(axis=1).mean()) for level in LEVELS}
    for level in LEVELS:
        wrong = np.ones(len(positives))
        for i in range(min(level, among)):
            wrong *= np.maximum(among - positives - i, 0) / (among - i)
        found[f"chance@{level}"] = float(1 - wrong.mean())
    return found
