"""Objects that are followed through a video while other models predict its frames, on one pass of the encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pe_spatial.common.errors import OptionError
from pe_spatial.inference.inputs import Channels, Picture

if TYPE_CHECKING:
    from pe_spatial.inference.shared import Results, SharedPredictor

Masks = Mapping[int, Any] | Callable[[int], Any]


def track_frames(
    predictor: SharedPredictor,
    tracker: Any,
    frames: Iterable[Picture],
    masks: Masks,
    channels: Channels,  # noqa: ANN401
) -> Iterator[tuple[Results, Tensor]]:
    """See `SharedPredictor.track`."""
    if isinstance(masks, Mapping) and not masks:
        raise OptionError("nothing to track: give a mask for the first frame, masks={0: mask}")
    group = predictor.sharing.take_in(tracker)
    tracker.labels.reset()
    waiting = iter(frames)
    is_first = True
    while chunk := list(islice(waiting, predictor.batch_size)):
        samples = [predictor.load(frame, channels) for frame in chunk]
        with predictor.sharing.remembering():
            results = predictor.run_models([predictor.transform(sample) for sample in samples])
            before = 0 if group is None else group.computed
            images = [sample["img"].as_subclass(Tensor) for sample in samples]
            followed = list(tracker.track(images, masks, len(images)))
            if is_first and group is not None and group.computed > before:
                predictor.sharing.tell_own_frames(tracker, images[0])
        is_first = False
        yield from zip(results, followed, strict=True)
