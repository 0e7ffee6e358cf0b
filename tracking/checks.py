"""What the dataset doctor asks of videos."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.pictures import read_image
from pe_spatial.doctor import DatasetCheck, Finding, Histogram
from pe_spatial.tracking.datasets import VideoDataset
from pe_spatial.tracking.frames import read_mask
from pe_spatial.visualization import overlay_masks

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
        for path in paths:
            try:
                mask = read_mask(path, binary=record["binary"])
            except (UnreadableFile, ValueError) as error:
                findings.append(Finding("error", "masks that cannot be read", str(error)))
                continue
            if size is not None and tuple(mask.shape) != size:
                example = f"{path} is {tuple(mask.shape)} (H, W), the frames {size}"
                findings.append(Finding("error", "masks of another size than their video", example))
        for frame, prompt in record["prompts"].items():
            try:
                shown = bool(read_mask(**prompt).any())
            except (UnreadableFile, ValueError):
                continue  # counted above
            if not shown:
                example = f"{prompt['path']} (frame {frame}) holds no object to track"
                findings.append(Finding("error", "first masks without an object", example))
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
        return overlay_masks(image, mask) if mask.shape == image.shape[-2:] else image
