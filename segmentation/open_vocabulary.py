"""A segmenter whose classes are words.

Letters: B images, K classes, W words, D channels of a feature; h, w rows and columns of patches.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.backbones.text import PECore, Prompts, class_vectors
from pe_spatial.common.errors import ConfigError, OptionError, few, suggest
from pe_spatial.common.parts import ModalModel, build_options
from pe_spatial.segmentation.semantic import SemanticModel, predict_semantic
from pe_spatial.segmentation.windows import check_window
from pe_spatial.zero_shot.lists import NONE, read_templates


@dataclass(frozen=True)
class Background:
    """A class that is no word: what resembles none of them.

    Args:
        name: Of the class.
        threshold: A pixel is background where the most probable word has a lower probability than that.

    Raises:
        OptionError: A threshold outside of 0 to 1.
    """

    name: str
    threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise OptionError(
                f"threshold {self.threshold} of {self.name!r} is not a probability between 0 and 1; below 1 / words "
                "it has no effect, and close to 1 almost everything is background"
            )


@MODELS.register_module()
class OpenVocabularySegmentor(ModalModel, SemanticModel):
    """Compares the feature of every patch with words.

    A score is the logarithm of a probability: log-softmax over the words of the scaled cosines between the feature of a
    patch and those of the words. Scores of several words of a class are combined by their maximum. Between patches they
    are interpolated, and averaged where windows overlap, before the largest one is the class.

    Args:
        maps: Config of what gives features [B, D, h, w] of images: `TextAlignedMap`, which learns nothing, or
            `TextAlignedHead`. It has the PE-Core of the words as `core`, and `patch_size`.
        classes: Names of the classes; None takes those of the data.
        words: Words for classes, by name, in place of the name: `{background: [sky, wall], person: [man, woman]}`.
        templates: Sentences with the place `{c}`; a file of them; `imagenet`; or `none`.
        background: Fields of `Background`; None: every pixel is of the class of a word. A background that can be
            described is better named by `words`.
        scale: Of the cosines before the softmax; None takes the one that PE-Core was trained with.
        window: `size` and `stride` of the window that slides over images in evaluation, see `check_window`; None takes
            them whole.
        data_preprocessor: Config of the preprocessor.

    Raises:
        OptionError: Names or templates that `Prompts` refuses, a single word, or a scale that must be above 0.
        ConfigError: An option of `background` or `window` that cannot be.
    """

    task = "segmentation"
    title = "Open-vocabulary segmenter"
    needs_training = False  # where `maps` learns, the config has a `train_cfg`
    align_corners = False

    def __init__(
        self,
        maps: Mapping[str, Any],
        classes: Sequence[str] | None = None,
        words: Mapping[str, Sequence[str]] | None = None,
        templates: str | Sequence[str] = NONE,
        background: Mapping[str, Any] | None = None,
        scale: float | None = None,
        window: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor or {"type": "DensePreprocessor"})
        if scale is not None and not 0 < scale < math.inf:
            raise OptionError(f"scale {scale} must be above 0; the released PE-Core use 100")
        self.maps = MODELS.build({"type": "TextAlignedMap", **maps})
        self.templates = templates
        self.words = {name: tuple(others) for name, others in (words or {}).items()}
        self.background = None if background is None else build_options(Background, background, "background")
        self.scale = scale
        self.window = None if window is None else build_options(check_window, window, "window")
        self.stride = self.maps.patch_size
        self.own_classes = None if classes is None else tuple(classes)
        self.num_classes = 0
        self._prompts: Prompts | None = None
        self._rows: tuple[int, ...] = ()  # the class of every word
        if self.own_classes is not None:
            self._name(self.own_classes)

    @property
    def core(self) -> PECore:
        """The PE-Core that the words are compared with."""
        return self.maps.core

    def check_classes(self, metainfo: Mapping[str, Any]) -> None:
        """Take the classes of a dataset, or compare them with those of the config.

        Raises:
            ConfigError: The dataset has none, or others than the config.
            OptionError: Names that cannot be compared; see the class.
            MissingPackage: The packages of the extra `text` are not installed.
        """
        classes = tuple(metainfo.get("classes") or ())
        if not classes:
            raise ConfigError("the data have no class names; set model.classes")
        if self.own_classes is not None and classes != self.own_classes:
            raise ConfigError(
                f"model.classes has {len(self.own_classes)} names ({few(self.own_classes)}) and the data "
                f"{len(classes)} ({few(classes)}); they must be the same in the same order; remove model.classes"
            )
        self._name(classes)
        self.word_vectors()  # what is missing for them is known before the first picture

    def _name(self, classes: tuple[str, ...]) -> None:
        """Make the prompts of classes."""
        named = [*self.words, *([] if self.background is None else [self.background.name])]
        for name in named:
            if name not in classes:
                raise OptionError(f"words or background name {name!r}, which is not a class; {suggest(name, classes)}")
        unnamed = None if self.background is None else self.background.name
        if unnamed in self.words:
            raise OptionError(f"background {unnamed!r} also has words; remove one of them")
        pairs = [
            (row, word) for row, name in enumerate(classes) if name != unnamed for word in self.words.get(name, (name,))
        ]
        given = self.templates
        templates = read_templates(given) if isinstance(given, str) else tuple(given)
        prompts = Prompts(tuple(word for _, word in pairs), templates)
        if len(pairs) < 2:
            raise OptionError(
                f"{pairs[0][1]!r} is the only word, so every pixel would get it; add words for other things, such "
                "as: wall, sky, grass"
            )
        self._prompts, self._rows, self.num_classes = prompts, tuple(row for row, _ in pairs), len(classes)

    def word_vectors(self) -> Tensor:
        """Normalized features [W, D] of the words; they are computed once for each list.

        Raises:
            OptionError: No classes are known yet.
        """
        if self._prompts is None:
            raise OptionError("the classes are not known; set model.classes, or call check_classes")
        with torch.autocast(self.core.device.type, enabled=False):
            return class_vectors(self.core, self._prompts)

    def score_map(self, inputs: Tensor) -> Tensor:
        """See `SemanticModel`; logarithms of probabilities."""
        features = F.normalize(self.maps(inputs).float(), dim=1)
        scale = self.core.logit_scale.exp() if self.scale is None else self.scale
        words = (scale * torch.einsum("bdhw,kd->bkhw", features, self.word_vectors())).log_softmax(dim=1)
        lowest = -math.inf if self.background is None else math.log(self.background.threshold)
        scores = words.new_full((len(words), self.num_classes, *words.shape[2:]), lowest)
        rows = torch.tensor(self._rows, device=words.device).view(1, -1, 1, 1).expand_as(words)
        return scores.scatter_reduce(1, rows, words, "amax", include_self=False)

    def raw(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> Tensor:
        """Features [B, D, h, w], which words are compared with, of images [B, 3, H, W], multiples of the patch size."""
        return self.maps(inputs)

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """The losses of maps that are learned; of a picture with several captions one is drawn.

        Raises:
            ConfigError: These maps learn nothing.
        """
        if not hasattr(self.maps, "loss"):
            raise ConfigError(
                f"{type(self.maps).__name__} has nothing to train; evaluate it with `pe-spatial eval --config CONFIG`, "
                "or set model.maps to a TextAlignedHead to train"
            )
        return self.maps.loss(inputs, _captions(data_samples))

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """Fill `pred_sem_seg` in the frame of the original images."""
        return predict_semantic(self, inputs, data_samples)


def _captions(data_samples: Sequence[BaseDataElement]) -> list[str] | None:
    """One caption for each picture; None where some have none."""
    if not all("captions" in sample for sample in data_samples):
        return None
    chosen = [sample.captions[int(torch.randint(len(sample.captions), ()))] for sample in data_samples]
    return [str(caption) for caption in chosen]
