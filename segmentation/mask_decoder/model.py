"""An encoder-only mask transformer (EoMT, arXiv:2503.19108) on a Perception Encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor

from pe_spatial.backbones.contract import build_backbone, grid_of, with_statistics
from pe_spatial.backbones.fine_maps import require_patches
from pe_spatial.backbones.token_blocks import token_blocks
from pe_spatial.common.errors import OptionError
from pe_spatial.common.graphs import Engine, Network, NetworkGraph, only_graph
from pe_spatial.common.parts import ModalModel, build_options
from pe_spatial.segmentation.mask_decoder.criterion import Masks
from pe_spatial.segmentation.mask_decoder.head import MaskHead
from pe_spatial.segmentation.mask_decoder.postprocess import Frame, instances_of, panoptic_of, semantic_scores
from pe_spatial.segmentation.mask_decoder.queries import QueryTokens, attention_mask
from pe_spatial.segmentation.mask_decoder.targets import segments_of_sample
from pe_spatial.segmentation.semantic import SemanticModel, predict_semantic
from pe_spatial.segmentation.windows import check_window
from pe_spatial.training.binding import check_class_count

OUTPUTS = ("semantic", "instance", "panoptic")


@MODELS.register_module()
class MaskDecoder(ModalModel, SemanticModel):
    """Masks of classes, of objects, or of both, from learned queries in the last blocks of the encoder.

    There is no separate decoder: queries are additional tokens of the last blocks, and a mask is the dot product of a
    query with the upscaled patch tokens. In training, masks are also predicted before each of these blocks, and the
    attention of a query may be restricted to its own mask (`MaskAnnealingHook`). Evaluation runs a plain encoder.

    Args:
        num_classes: K.
        backbone: Config of a backbone whose only map is that of the last block, and whose blocks take more tokens; see
            `pe_spatial.backbones.token_blocks`.
        things: Labels of countable classes, each object of which is a mask of its own; or a number n for the first n.
        outputs: What is predicted, of "semantic", "instance" and "panoptic".
        num_queries: Q; more than there are segments in an image.
        num_blocks: L, the last blocks, which have the queries among their tokens.
        criterion: Config of the loss.
        least_score: See `panoptic_of`.
        least_visible: See `panoptic_of`.
        max_instances: Objects that are kept per image.
        window: For semantic outputs alone: `size` and `stride` of a window over the images, see `check_window`.
        data_preprocessor: Config of the preprocessor; pads to multiples of the patch size.

    Attributes:
        shared_layers: The block before the queries: all that another model on the encoder can have in common.
        masking: Probability per block that a query attends only to its own mask in training; all 0 at first.

    Raises:
        OptionError: An option outside its range, or two that contradict each other.
    """

    task = "segmentation"
    title = "Mask decoder"
    align_corners = False

    def __init__(
        self,
        num_classes: int,
        backbone: Mapping[str, Any],
        things: int | Sequence[int] = (),
        outputs: Sequence[str] = ("semantic",),
        num_queries: int = 100,
        num_blocks: int = 4,
        criterion: Mapping[str, Any] | None = None,
        least_score: float = 0.8,
        least_visible: float = 0.8,
        max_instances: int = 100,
        window: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        module = build_backbone(backbone, self.title, maps=1, needs=("patch_size", "depth", "layers"))
        super().__init__(with_statistics(data_preprocessor, module))
        if num_classes < 1:
            raise OptionError(f"num_classes is {num_classes}; a segmenter needs at least one class")
        self.num_classes = num_classes
        self.things = frozenset(range(things) if isinstance(things, int) else things)
        self.outputs = tuple(outputs)
        self.window = None if window is None else build_options(check_window, window, "window")
        self._check_outputs()
        self.backbone = module
        self.stride = module.patch_size
        if tuple(module.layers) != (module.depth - 1,):
            raise OptionError(
                f"layers {module.layers} of the backbone: masks come only from the last block; set layers: [-1]"
            )
        require_patches(module, type(self).__name__)
        self.queries = QueryTokens(module, num_queries, num_blocks)
        self.shared_layers = (self.queries.first - 1,)
        self.head = MaskHead(module.channels[0], num_classes, module.patch_size)
        self.criterion = MODELS.build({"type": "MaskCriterion", **(criterion or {})})
        self.least_score = least_score
        self.least_visible = least_visible
        self.max_instances = max_instances
        self.masking: Sequence[float] = [0.0] * num_blocks
        self._engine: Engine | None = None

    @property
    def _is_semantic(self) -> bool:
        return self.outputs == ("semantic",)

    def _check_outputs(self) -> None:
        unknown = [name for name in self.outputs if name not in OUTPUTS]
        if unknown or not self.outputs:
            raise OptionError(f"outputs {list(self.outputs)} must be some of {', '.join(OUTPUTS)}")
        outside = [label for label in self.things if not 0 <= label < self.num_classes]
        if outside:
            raise OptionError(
                f"thing {outside[0]} is not a label of {self.num_classes} classes (0…{self.num_classes - 1})"
            )
        if "instance" in self.outputs and not self.things:
            raise OptionError("outputs has 'instance', which needs countable classes; set things")
        if self.window is not None and not self._is_semantic:
            raise OptionError("objects cannot be joined across windows; set window=None, or outputs=['semantic']")

    def raw(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> Masks:
        """The masks of all queries."""
        return self._decode(inputs)[-1]

    def graph(self, kind: str = "") -> NetworkGraph:
        """See `Exportable`: images to the score map, or, of a model of objects, to the masks of all queries."""
        only_graph(kind)
        if self._is_semantic:
            network = Network(self, lambda images: [semantic_scores(*self.raw(images))])
            return NetworkGraph(network, ("images",), ("scores",), self.stride)
        return NetworkGraph(Network(self, self.raw), ("images",), Masks._fields, self.stride)

    def use_engine(self, run: Engine) -> None:
        """See `Exportable`."""
        self._engine = run

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """The losses of the criterion.

        Args:
            inputs: Images [B, 3, H, W], H and W multiples of the patch size.
            data_samples: With `gt_sem_seg`, `gt_instances` (labels, masks; all of countable classes), or both, and
                `ignored_instances`.
        """
        size = (inputs.shape[-2], inputs.shape[-1])
        segments = [segments_of_sample(sample, size, self.things) for sample in data_samples]
        return self.criterion(self._decode(inputs), segments)

    def _decode(self, inputs: Tensor) -> list[Masks]:
        """Predictions of the queries after the last block, and in training also before each of their blocks."""
        blocks_of = token_blocks(self.backbone)
        grid = grid_of(self.backbone, inputs)
        tokens = self.queries.join(self.backbone, inputs)
        places = self.queries.rope(self.backbone, grid, inputs.device)
        predictions = []
        for block, probability in enumerate(self.masking, start=self.queries.first):
            mask = None
            if self.training:
                predictions.append(self.head(*self.queries.split(tokens, grid), grid))
                mask = attention_mask(predictions[-1].logits, grid, tokens.shape[1], probability)
            tokens = blocks_of.run(block, tokens, places, mask)
        return [*predictions, self.head(*self.queries.split(tokens, grid), grid)]

    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """Fill what `segmentation.semantic` names; the samples have the metainfo of `DensePreprocessor`."""
        if self._is_semantic:
            return predict_semantic(self, inputs, data_samples)
        found = self.raw(inputs) if self._engine is None else self._engine(inputs)
        size = (inputs.shape[-2], inputs.shape[-1])
        for sample, logits, class_logits in zip(data_samples, *found, strict=True):
            self._fill(sample, logits, class_logits, size)
        return list(data_samples)

    def _fill(self, sample: BaseDataElement, logits: Tensor, class_logits: Tensor, size: tuple[int, int]) -> None:
        frame = Frame(sample, size)
        if "semantic" in self.outputs:
            labels = frame.labels(semantic_scores(logits[None], class_logits[None])[0])
            sample.set_field(PixelData(data=labels), "pred_sem_seg", dtype=PixelData)
        if "instance" in self.outputs:
            sample.pred_instances = instances_of(logits, class_logits, self.things, frame, self.max_instances)
        if "panoptic" in self.outputs:
            thresholds = self.least_score, self.least_visible
            ids, segments = panoptic_of(logits, class_logits, self.things, frame, *thresholds)
            sample.set_field(PixelData(data=ids[None]), "pred_panoptic", dtype=PixelData)
            sample.set_metainfo({"segments": segments})

    def score_map(self, inputs: Tensor) -> Tensor:
        """See `SemanticModel`; the scores are sums of probabilities, not logits."""
        if self._engine is None:
            return semantic_scores(*self.raw(inputs))
        found = self._engine(inputs)
        return found[0] if self._is_semantic else semantic_scores(*found)

    def probabilities(self, scores: Tensor) -> Tensor:
        """See `SemanticModel`."""
        return scores / scores.sum(dim=-3, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)

    def check_classes(self, metainfo: Mapping[str, Any]) -> None:
        """Compare the model with a dataset's `classes` and, where it knows, which of them are countable.

        Raises:
            OptionError: They differ.
        """
        check_class_count(self.num_classes, metainfo)
        known = metainfo.get("is_thing")
        countable = None if known is None else {label for label, is_thing in enumerate(known) if is_thing}
        if known is not None and (self.things or "panoptic" in self.outputs) and countable != self.things:
            raise OptionError(
                f"the model has things={sorted(self.things)}, the dataset has {sorted(countable or ())}: "
                f"{', '.join(metainfo['classes'][label] for label in sorted(countable or ())[:5]) or 'none'}; set "
                "model.things accordingly"
            )

    bind_dataset = check_classes
