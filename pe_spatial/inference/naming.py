"""Names in words for objects whose masks come from elsewhere: a class-agnostic model, or SAM 2.

Letters: M masks, K words, D channels of a feature, S side of the picture that PE-Core sees.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.backbones.text import PECore, Prompts, TextAlignedMap, class_vectors
from pe_spatial.common.errors import OptionError
from pe_spatial.data import decode_masks
from pe_spatial.data.placed_masks import Rle


class InstanceNamer:
    """Names masks by PE-Core's pooling, which sees the patches under a mask alone (`TextAlignedMap.of_masks`).

    The picture is prepared as PE-Core's official transform does it, as a square. A mask that is smaller than a patch
    takes what that patch says.

    Args:
        core: Any PE-Core.
        prompts: The words and the templates of their sentences.

    Attributes:
        classes: The words.

    Raises:
        OptionError: A single word, which every object would be of.
    """

    def __init__(self, core: PECore, prompts: Prompts) -> None:
        if len(prompts.classes) < 2:
            raise OptionError(
                f"{prompts.classes[0]!r} is the only word, so every object would get it; add words for other things"
            )
        self.maps = TextAlignedMap(core)
        self.classes = prompts.classes
        self.vectors = class_vectors(core, prompts)

    @torch.no_grad()
    def probabilities(self, image: Tensor, masks: Tensor | Sequence[Rle]) -> Tensor:
        """How well each word names each mask.

        Args:
            image: uint8 RGB [3, H, W].
            masks: RLEs of the picture, of which one is decoded at a time, or bool [M, H, W].

        Returns:
            float32 [M, K] on the CPU; rows sum to 1.

        Raises:
            OptionError: Masks of another size than the picture.
        """
        size = tuple(image.shape[1:])
        sizes = {tuple(masks.shape[1:])} if isinstance(masks, Tensor) else {tuple(rle["size"]) for rle in masks}
        if sizes - {size}:
            raise OptionError(
                f"masks of {sorted(sizes)} (H, W) do not fit the picture {list(image.shape)}; they must be RLEs of "
                "it, or [M, H, W] in its pixels"
            )
        core = self.maps.core
        if not len(masks):
            return torch.zeros(0, len(self.classes))
        inputs = core.preprocess(image)[None].to(core.device)
        # one at a time: all of them may not fit at the size of the picture
        bitmaps = (decode_masks(masks[number : number + 1]) for number in range(len(masks)))
        shares = [F.interpolate(bitmap[None].float(), tuple(inputs.shape[2:]), mode="area") for bitmap in bitmaps]
        squares = torch.cat(shares, dim=1).to(core.device)
        features = F.normalize(self.maps.of_masks(inputs, squares)[0].float(), dim=-1)
        return (core.logit_scale.exp() * features @ self.vectors.T).softmax(dim=-1).cpu()

    def name(self, image: Tensor, sample: BaseDataElement) -> BaseDataElement:
        """Give the instances of a sample the labels of words; scores are multiplied with the probability of the word.

        Args:
            image: uint8 RGB [3, H, W], in whose frame the instances are.
            sample: With `pred_instances`, which has `masks`.

        Raises:
            OptionError: The instances have no masks.
        """
        found = sample.pred_instances
        if "masks" not in found:
            raise OptionError(
                "words need masks, and this model predicts only boxes; use a model that was trained with masks"
            )
        probabilities, labels = self.probabilities(image, found.masks).max(dim=-1)
        found.labels = labels.to(found.labels.device)
        found.scores = found.scores * probabilities.to(found.scores.device)
        return sample


def sam2_masks(generator: Any, image: Tensor) -> Tensor:  # noqa: ANN401 - of the extra `sam`
    """The masks bool [M, H, W] that SAM 2 finds on its own, the largest first.

    Args:
        generator: A `SAM2AutomaticMaskGenerator` of the package `sam2`, or what has its `generate`.
        image: uint8 RGB [3, H, W].
    """
    found: Sequence[dict[str, Any]] = generator.generate(image.permute(1, 2, 0).contiguous().numpy())
    masks = [np.asarray(one["segmentation"], bool) for one in sorted(found, key=lambda one: -one["area"])]
    return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *image.shape[1:], dtype=torch.bool)
