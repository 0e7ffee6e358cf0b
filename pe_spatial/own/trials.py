"""What `--trial KIND=PLACE` says: a task that a student does at every validation, and the number that counts."""

from pathlib import Path
from typing import Any

from pe_spatial.common.errors import OptionError, suggest
from pe_spatial.common.sources import resolve_sources
from pe_spatial.own.data import find_data
from pe_spatial.own.request import Request

TRIALS = {
    "matches": "photographs",
    "tracking": "videos in DAVIS's layout",
    "neighbors": "label maps",
    "linear": "label maps",
}
_PHOTOGRAPHS, _VIEWS = 32, 2  # at most; of each
_TOKENS = 32  # of the shorter side of a frame


def trial_settings(trial: str, image_size: int) -> dict[str, Any]:
    """The hooks of a trial. The best checkpoint is the best of the trial, and early stopping goes by it.

    Args:
        trial: `matches=PHOTOS`, `tracking=DAVIS`, `neighbors=LABELS` or `linear=LABELS`.
        image_size: Side of the views of photographs and of labeled pictures, in pixels.

    Raises:
        OptionError: No such trial, no place, or a folder without videos.
        AnnotationError, ConfigError: There are no label maps, or no file describes them; see `find_data`.
        FileNotFoundError: The place does not exist, or holds no photograph.
    """
    kind, _, place = trial.partition("=")
    if kind not in TRIALS or not place:
        known = " or ".join(f"{name}=FOLDER ({what})" for name, what in TRIALS.items())
        hint = "" if kind in TRIALS else f"; {suggest(kind, TRIALS)}"
        raise OptionError(f"trial {trial} is not {known}{hint}")
    path = str(Path(place).expanduser().absolute())
    if kind == "matches":
        hook, best = _matches(path, image_size), "match/matched"
    elif kind == "tracking":
        hook, best = _tracking(path), "track/J&F"
    else:
        hook, best = _labels(path, image_size), f"labels/{kind}"
    return {"trial": {"type": "StudentTrialHook", **hook}, "checkpoint": {"best": best, "rule": "greater"}}


def _matches(path: str, image_size: int) -> dict[str, Any]:
    photographs = {
        "type": "Photographs",
        "source": path,
        "indices": min(_PHOTOGRAPHS, len(resolve_sources(path, ("image",)))),
        "test_mode": True,
        "pipeline": [{"type": "LoadImage"}, {"type": "PackSample"}],
    }
    matcher = {"type": "PhotographMatcher", "homographies": {"side": image_size, "number": _VIEWS}}
    return {"model": matcher, "dataset": photographs, "metric": {"type": "MatchingMetric"}}


def _tracking(path: str) -> dict[str, Any]:
    if not (Path(path) / "JPEGImages").is_dir():
        raise OptionError(f"trial tracking={path}: there is no folder JPEGImages; give a folder in DAVIS's layout")
    return {
        "model": {"type": "VideoTracker", "resizing": {"tokens": _TOKENS}},
        "dataset": {"type": "Davis2017", "data_root": path, "split": None},
        "metric": {"type": "JFMetric"},
    }


def _labels(path: str, image_size: int) -> dict[str, Any]:
    steps = [
        {"type": "LoadImage"},
        {"type": "LoadSegmentation"},
        {"type": "torchvision.transforms.v2.Resize", "size": [image_size, image_size]},
        {"type": "PackSample"},
    ]
    data = find_data(Request("segmentation", path)).val
    dataset = {"type": "SegmentationFolder", "ann_file": "data.yaml", **data, "test_mode": True, "pipeline": steps}
    return {"model": {"type": "TokenLabeler"}, "dataset": dataset, "metric": {"type": "TokenLabelMetric"}}
