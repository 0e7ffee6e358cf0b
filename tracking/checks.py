"""What the dataset doctor asks of videos."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from torch import Tensor

from pe_spatial.common.errors import UnreadableFile, UserError, few
from pe_spatial.common.pictures import read_image
from pe_spatial.doctor import DatasetCheck, Finding, Histogram
from pe_spatial.tracking.datasets import VideoDataset
from pe_spatial.tracking.frames import ImageFrames
from pe_spatial.tracking.masks import mask_fault, mask_files, read_mask
from pe_spatial.visualization import draw_objects

Size = tuple[int, int]


class VideoCheck(DatasetCheck):
    """Frames and masks of every video: whether they can be read, are of one size, and show what is to be tracked."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self.histogram: Histogram = Histogram("frames", [], kind="video", images_unit=" masks")

    @classmethod
    def concerns(cls, dataset: Any, record: dict[str, Any]) -> bool:
        """All datasets of this package."""
        return isinstance(dataset, VideoDataset)

    def inspect_sample(self, record: dict[str, Any], sample: dict[str, Any] | None) -> Any:
        """Read everything."""
        findings: list[Finding] = []
        try:
            ImageFrames(record["frame_paths"])
        except (UserError, OSError) as error:
            findings.append(Finding("error", "frames that the tracker refuses", str(error)))
        size = self._frames(record, findings)
        masks = self._masks(record, size, findings)
        return record["video"], len(record["frame_paths"]), masks, findings

    def _frames(self, record: dict[str, Any], findings: list[Finding]) -> Size | None:
        """The size (H, W) of the first frame that can be read."""
        first: Size | None = None
        for path in record["frame_paths"]:
            try:
                height, width = read_image(path).shape[-2:]
            except UnreadableFile as error:
                findings.append(Finding("error", "files that cannot be read", str(error)))
                continue
            first = first or (height, width)
            if (height, width) != first:
                example = f"{path} is {(height, width)} (H, W), the first frame of the video {first}"
                findings.append(Finding("error", "frames of another size than their video", example))
        return first

    def _masks(self, record: dict[str, Any], size: Size | None, findings: list[Finding]) -> int:
        """How many masks there are."""
        paths = [path for path in record["annotation_paths"] or () if path is not None]
        given: set[int] = set()
        for frame, prompt in record["prompts"].items():
            with suppress(UnreadableFile, ValueError):
                mask = read_mask(**prompt)
                given |= set(mask.unique().tolist())
                if not mask.any():
                    example = f"{prompt['path']} (frame {frame}) has no object to track"
                    findings.append(Finding("error", "first masks without an object", example))
        for path in paths:
            try:
                mask = read_mask(path, binary=record["binary"])
                fault = mask_fault(path)
            except (UnreadableFile, ValueError) as error:
                findings.append(Finding("error", "masks that cannot be read", str(error)))
                continue
            if fault:
                findings.append(Finding("error", "masks that hold no object numbers", fault))
            elif later := set(mask.unique().tolist()) - given - {0}:
                example = f"{path} has object {min(later)}, which no mask that is given to the tracker has"
                findings.append(Finding("warning", "objects that enter later are not tracked", example))
                given |= later  # once a video
            if size is not None and tuple(mask.shape) != size:
                example = f"{path} is {tuple(mask.shape)} (H, W), the frames {size}"
                findings.append(Finding("error", "masks of another size than their video", example))
        strays = set(mask_files(self.dataset.folders(record["video"])[1]).values()) - set(paths)
        if strays:
            example = f"{few(sorted(strays))} do not match the name of any frame"
            findings.append(Finding("warning", "masks without a frame", example))
        return len(paths)

    def collect(self, seen: Any) -> Iterable[Finding]:
        """Count, and pass on."""
        video, frames, masks, findings = seen
        self.histogram.names.append(video)
        self.histogram.counts.append(frames)
        self.histogram.images.append(masks)
        return findings

    def draw(self, record: dict[str, Any]) -> Tensor | None:
        """The first frame with the masks that say what to track."""
        frame, prompt = next(iter(record["prompts"].items()))
        try:
            image, mask = read_image(record["frame_paths"][frame]), read_mask(**prompt)
        except (UnreadableFile, ValueError):
            return None
        return draw_objects(image, mask) if mask.shape == image.shape[-2:] else image
