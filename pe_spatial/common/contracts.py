"""What the parts of the package expect of each other.

`tests/test_contracts.py` holds every registered backbone, model and transform to this page. What writes the predictions
of a task is a subclass of `pe_spatial.inference.writer.ResultsWriter`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from pe_spatial.common.errors import AnnotationError, OptionError, UnreadableFile
from pe_spatial.common.pictures import picture_facts


@runtime_checkable
class Backbone(Protocol):
    """Images to maps.

    Attributes:
        channels: Of every map.
        strides: Pixels of the image per cell of every map.
        patch_size: The sides of an image must be multiples of it.
    """

    channels: Sequence[int]
    strides: Sequence[int]
    patch_size: int

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map normalized images [B, 3, H, W] to one [B, C_i, H / s_i, W / s_i] for every entry of `channels`."""

    def layer_of(self, parameter_name: str) -> int:
        """The layer of a parameter for layer-wise learning rates, 0 for the embeddings.

        Raises:
            KeyError: The backbone has no such parameter.
        """


@runtime_checkable
class Model(Protocol):
    """Images to losses or predictions, as mmengine's Runner calls it.

    Attributes:
        task: What it predicts, such as "detection": its predictor and its results writer go by that name.
    """

    task: str

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Run on normalized images [B, 3, H, W].

        Args:
            inputs: Images, padded to a common size.
            data_samples: One per image (see `pe_spatial.data.sample`).
            mode: "loss" returns a dict of scalars whose keys begin with `loss`; "predict" fills `pred_*` of the data
                samples, in the resolution and the pixel frame of the original image, and returns them; "tensor"
                returns raw maps.
        """


class Loader(ABC):
    """Base class of the pipeline steps that read files: a record goes in, and a sample comes out.

    Attributes:
        needs_labels: Prediction leaves the step out, for its images have no labels. Any other transform that fails
            without labels sets it too.
    """

    needs_labels: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Add what was read to the sample (see `pe_spatial.data.sample`); the one that was given is left as it is."""

    def frame(self, sample: Mapping[str, Any]) -> tuple[int, int]:
        """The size (H, W) of the decoded image of a sample.

        Raises:
            OptionError: No image was loaded before.
        """
        if "ori_shape" not in sample:
            raise OptionError(
                f"{sample.get('img_path', 'image')}: {type(self).__name__} needs the size of the image; put LoadImage "
                "before it in the pipeline"
            )
        return tuple(sample["ori_shape"])

    def check_size(self, path: str | Path, size: Sequence[int], sample: Mapping[str, Any]) -> None:
        """Compare the size (H, W) of a map of labels with that of its image.

        Raises:
            OptionError: No image was loaded before.
            AnnotationError: They differ.
        """
        if tuple(size) != self.frame(sample):
            raise AnnotationError(
                f"{path} is {tuple(size)} (H, W) but its image {sample.get('img_path', '')} is {self.frame(sample)}; "
                f"{exif_of(sample, size)}both must have one size: make the map at the size of the image"
            )


def exif_of(sample: Mapping[str, Any], size: Sequence[int]) -> str:
    """What to say about EXIF where labels of (H, W) do not fit the image of a sample; empty where EXIF is no reason."""
    path = sample.get("img_path")
    if path is None or "img" not in sample and "ori_shape" not in sample:
        return ""
    try:
        facts = picture_facts(path, sample.get("archive"))
    except (UnreadableFile, OSError):
        return ""
    if facts.orientation < 5 or tuple(size) != facts.size:
        return ""
    return (
        f"EXIF turns the image (orientation {facts.orientation}), and the labels were made on its pixels as stored: "
        "turn them too, or set apply_exif=False in LoadImage; "
    )
