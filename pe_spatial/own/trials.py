"""What `--trial KIND=PLACE` says: a task that a student does at every validation, and the number that counts."""

from pathlib import Path
from typing import Any

from pe_spatial.common.errors import OptionError, suggest
from pe_spatial.common.sources import resolve_sources

TRIALS = {"matches": "photographs", "tracking": "videos in DAVIS's layout"}
_PHOTOGRAPHS, _VIEWS = 32, 2  # at most; of each
_TOKENS = 32  # of the shorter side of a frame


def trial_settings(trial: str, image_size: int) -> dict[str, Any]:
    """The hooks of a trial. The best checkpoint is the best of the trial, and early stopping goes by it.

    Args:
        trial: `matches=PHOTOS` or `tracking=DAVIS`.
        image_size: Side of the views of photographs, in pixels.

    Raises:
        OptionError: No such trial, no place, or a folder without videos.
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
    else:
        hook, best = _tracking(path), "track/J&F"
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
