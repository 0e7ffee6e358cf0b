"""The encoder-decoder of mmseg over our backbones."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor

from pe_spatial.backbones.contract import build_backbone, with_statistics
from pe_spatial.common.errors import OptionError
from pe_spatial.common.graphs import Engine, Network, NetworkGraph, only_graph
from pe_spatial.common.parts import build_options, build_part, link
from pe_spatial.segmentation.semantic import SemanticModel, predict_semantic
from pe_spatial.segmentation.windows import check_window
from pe_spatial.training.binding import check_class_count

HeadConfig = Mapping[str, Any]


@MODELS.register_module()
class SemanticSegmentor(EncoderDecoder, SemanticModel):
    """A backbone, a decode head of mmseg (or `LinearHead`) and optionally a neck and auxiliary heads.

    Losses, heads and their configs are mmseg's (`type: mmseg.UPerHead`). What differs from its `EncoderDecoder`:
    classes and channels are given once, images may have any size (they are padded to whole patches on the way in), a
    padded batch is judged in the frame of its images, and full-size scores are not kept.

    Args:
        num_classes: K, of all heads.
        backbone: Config of a backbone with `channels` and `strides`.
        decode_head: Config of a head; `num_classes` and `in_channels` follow from the model. `in_index` chooses maps.
        neck: Config of a module from the backbone's last map to several; `in_channels` and `stride` follow.
        auxiliary_head: Config of a second head that is used in training only, or a list of them.
        window: `size` and `stride` of the window that slides over images in evaluation, see `check_window`; None takes
            them whole.
        data_preprocessor: Config of the preprocessor.

    Raises:
        OptionError: No class, or a value in a head's config that contradicts the model.
    """

    task = "segmentation"
    title = "Segmenter"

    def __init__(
        self,
        num_classes: int,
        backbone: Mapping[str, Any],
        decode_head: HeadConfig,
        neck: Mapping[str, Any] | None = None,
        auxiliary_head: HeadConfig | Sequence[HeadConfig] | None = None,
        window: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        module = build_backbone(backbone, self.title, maps=None if neck is None else 1)
        super(EncoderDecoder, self).__init__(data_preprocessor=with_statistics(data_preprocessor, module))
        if num_classes < 1:
            raise OptionError(f"num_classes is {num_classes}; a segmenter needs at least one class")
        # mmseg's parts look for their own parts in mmseg's scope, whatever that of the config is
        with DefaultScope.overwrite_default_scope("mmseg"):
            self.backbone = module
            maps = self.backbone.channels
            if neck is not None:
                self.neck = build_part("neck", neck, in_channels=maps[-1], stride=self.backbone.strides[-1])
                maps = self.neck.channels
            self._init_decode_head(_head("decode_head", decode_head, maps, num_classes))
            if isinstance(auxiliary_head, Sequence):
                auxiliary_head = [_head("auxiliary_head", head, maps, num_classes) for head in auxiliary_head]
            elif auxiliary_head is not None:
                auxiliary_head = _head("auxiliary_head", auxiliary_head, maps, num_classes)
            self._init_auxiliary_head(auxiliary_head)
        self.window = None if window is None else build_options(check_window, window, "window")
        self.stride = self.backbone.patch_size
        self.train_cfg = self.test_cfg = None
        self._engine: Engine | None = None

    def score_map(self, inputs: Tensor) -> Tensor:
        """See `SemanticModel`."""
        if self._engine is not None:
            return self._engine(inputs)[0]
        return self._scores(inputs)

    def _scores(self, inputs: Tensor) -> Tensor:
        return self.decode_head(self.extract_feat(inputs))

    def graph(self, kind: str = "") -> NetworkGraph:
        """See `Exportable`: images to the score map."""
        only_graph(kind)
        network = Network(self, lambda images: [self._scores(images)])
        return NetworkGraph(network, ("images",), ("scores",), self.stride)

    def use_engine(self, run: Engine) -> None:
        """See `Exportable`."""
        self._engine = run

    def encode_decode(self, inputs: Tensor, batch_img_metas: Sequence[Mapping[str, Any]] = ()) -> Tensor:
        """The name of mmseg for `segment_logits`; the metainfo is not needed."""
        return self.segment_logits(inputs)

    def predict(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> Sequence[BaseDataElement]:
        """Fill `pred_sem_seg` in the frame of the original images."""
        if data_samples is None:
            size = tuple(inputs.shape[-2:])
            data_samples = [BaseDataElement(metainfo={"img_shape": size, "ori_shape": size}) for _ in inputs]
        return predict_semantic(self, inputs, data_samples)

    def check_classes(self, metainfo: Mapping[str, Any]) -> None:
        """Compare the model with the `classes` of a dataset.

        Raises:
            ConfigError: Their number differs.
        """
        check_class_count(self.num_classes, metainfo)

    bind_dataset = check_classes


def _head(part: str, config: HeadConfig, maps: Sequence[int], num_classes: int) -> dict[str, Any]:
    index = config.get("in_index", -1)
    many = isinstance(index, Sequence)
    for i in index if many else [index]:
        if not -len(maps) <= i < len(maps):
            raise OptionError(f"{part}.in_index {index} is not one of the {len(maps)} maps of the backbone")
    channels = [maps[i] for i in index] if many else maps[index]
    return link(part, config, in_channels=channels, num_classes=num_classes)
