"""What models of several tasks share: parts that are built from settings, and the modes of `forward`."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.common.errors import ConfigError, OptionError, suggest

Options = TypeVar("Options")


def link(part: str, settings: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Settings together with what the part before fixes.

    Args:
        part: Its name in the config, for the message.
        settings: As in the config.
        **given: Settings that the part before it fixes.

    Raises:
        OptionError: A setting contradicts what is given.
    """
    for key, value in given.items():
        if key in settings and settings[key] != value:
            raise OptionError(
                f"{part}.{key} is {settings[key]!r}, but the model sets {value!r}; remove it from the config"
            )
    return {**settings, **given}


def build_part(part: str, settings: Mapping[str, Any], **given: Any) -> Any:  # noqa: ANN401 - any registered module
    """Build a registered module from settings with `type`; see `link`."""
    return MODELS.build(link(part, settings, **given))


def build_options(kind: Callable[..., Options], values: Mapping[str, Any], section: str) -> Options:
    """Call a class with a section of a config that has no `type`.

    Raises:
        ConfigError: An unknown option, with the nearest known one; or a value that the class refuses.
    """
    known = inspect.signature(kind).parameters
    for name in values:
        if name not in known:
            raise ConfigError(f"{section} has no option {name!r}; {suggest(name, known)}")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{section}: {error}") from error


def encoder_key(model: Mapping[str, Any]) -> str:
    """Where the settings of a model have its encoder: `student` in those of an alignment, else `backbone`."""
    return "student" if "student" in model else "backbone"


def unpad(sample: BaseDataElement, values: Tensor) -> Tensor:
    """Values [C, H, W] of a padded image as float32 [C, h, w] in the frame of the original image.

    Args:
        sample: With the metainfo `img_shape`, the size before the padding, and `ori_shape`.
        values: Of every pixel of the model's input.
    """
    height, width = sample.img_shape[:2]
    image = values[None, :, :height, :width].float()
    return F.interpolate(image, size=tuple(sample.ori_shape[:2]), mode="bilinear", align_corners=False)[0]


class ModalModel(BaseModel):
    """A model with the modes of mmengine's `forward`, each in a method of its own; a subclass writes all three."""

    def __init__(self, data_preprocessor: Mapping[str, Any] | None = None) -> None:
        super().__init__(dict(data_preprocessor) if data_preprocessor else None)

    @abstractmethod
    def raw(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None) -> Any:
        """Return the outputs of the network before any loss or post-processing."""

    @abstractmethod
    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """Return the losses, scalars whose names begin with `loss`."""

    @abstractmethod
    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """Fill the predictions of the samples, in the frame of the original images."""

    def forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None, mode: str = "tensor"
    ) -> Any:
        """Run the model.

        Args:
            inputs: Images [B, 3, H, W], normalized, and padded at the right and the bottom to what the model takes.
            data_samples: One per image, with what the method of the mode needs; "tensor" may do without.
            mode: "loss" for `loss`; "predict" for `predict`; "tensor" for `raw`.

        Raises:
            ValueError: Another mode, or "loss" or "predict" without data samples.
        """
        if mode == "tensor":
            return self.raw(inputs, data_samples)
        if mode not in ("loss", "predict"):
            raise ValueError(f"mode={mode!r} is not one of 'loss', 'predict', 'tensor'")
        if data_samples is None:
            raise ValueError(f"mode={mode!r} needs data_samples")
        samples = list(data_samples)
        return self.loss(inputs, samples) if mode == "loss" else self.predict(inputs, samples)
