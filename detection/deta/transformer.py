"""The deformable transformer: an encoder that proposes boxes, and a decoder that refines them layer by layer.

Zhu et al., 2021 (arXiv:2010.04159) with the queries of Ouyang-Zhang et al., 2022 (arXiv:2212.06137). Parameter names
are those of the official checkpoints, except that the heads live here only.

Letters: B images, S tokens of all levels, Q queries, C channels, K classes, L levels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pe_spatial.common.errors import OptionError
from pe_spatial.common.linear import Linear
from pe_spatial.detection.deta.layers import MLP, DecoderLayer, EncoderLayer, LayerOptions
from pe_spatial.detection.deta.tokens import TokenGrid, sine_code

QuerySelector = Callable[[Tensor, Tensor, TokenGrid, int], Tensor]

_PRIOR = 0.01  # probability of every class from an untrained head
_SMALL = -2.0  # logit of the size that a point begins with, 0.12 of the image


class Prediction(NamedTuple):
    """What a layer predicts of N queries or tokens.

    Attributes:
        logits: [B, N, K].
        boxes: [B, N, 4] cx, cy, w, h, relative to the image without padding.
        references: The boxes [B, N, 4], or points [B, N, 2], that `boxes` were refined from.
    """

    logits: Tensor
    boxes: Tensor
    references: Tensor


class Predictions(NamedTuple):
    """What the encoder and the decoder layers predict.

    Attributes:
        encoder: Predictions of the tokens; column 0 of the logits is objectness. None if the encoder does not propose.
        layers: Predictions of the queries, one entry per decoder layer.
    """

    encoder: Prediction | None
    layers: list[Prediction]


# where the decoder begins: features and positions [B, Q, C], and boxes [B, Q, 4] or points [B, Q, 2]
_Queries = tuple[Tensor, Tensor, Tensor]


@MODELS.register_module()
class DetaTransformer(nn.Module):
    """Encoder, choice of queries, decoder and the heads of both.

    Args:
        num_classes: K.
        channels: C, of every level.
        levels: L.
        num_queries: Q, at least 1.
        encoder_layers: Their number.
        decoder_layers: Their number.
        two_stage: Whether queries are tokens of the encoder; otherwise they are learned, and start from points.
        anchor_size: Sides of the anchors on the finest level, relative to the image; twice that on the next.
        checkpointing: Save memory in training by computing encoder layers twice.
        layer: Fields of `LayerOptions` other than channels and levels.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        levels: int,
        num_queries: int = 900,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        two_stage: bool = True,
        anchor_size: float = 0.05,
        checkpointing: bool = False,
        layer: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options = LayerOptions(channels, levels, **(layer or {}))
        if num_queries < 1:
            raise OptionError(f"num_queries is {num_queries}; it must be at least 1")
        if not 0 < anchor_size < 1:
            raise OptionError(f"anchor_size {anchor_size} is not a part of an image; give a number between 0 and 1")
        self.num_queries = num_queries
        self.two_stage = two_stage
        self.anchor_size = anchor_size
        self.checkpointing = checkpointing
        self.encoder = _Stack([EncoderLayer(options) for _ in range(encoder_layers)])
        self.decoder = _Stack([DecoderLayer(options) for _ in range(decoder_layers)])
        self.level_embed = nn.Parameter(torch.empty(levels, channels))
        nn.init.normal_(self.level_embed)
        if two_stage:
            self.enc_output, self.enc_output_norm = _linear_norm(channels)
            self.pos_trans, self.pos_trans_norm = _linear_norm(2 * channels)
            self.pix_trans, self.pix_trans_norm = _linear_norm(channels)
        else:
            self.query_embed = nn.Embedding(num_queries, 2 * channels)
            self.reference_points = Linear(channels, 2)
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)
        # one pair of heads a decoder layer, and the last one for the encoder if it proposes
        heads = decoder_layers + int(two_stage)
        self.class_embed = nn.ModuleList(_class_head(channels, num_classes) for _ in range(heads))
        self.bbox_embed = nn.ModuleList(
            _box_head(channels, _SMALL if i == 0 and not two_stage else 0) for i in range(heads)
        )

    def forward(self, maps: Sequence[Tensor], grid: TokenGrid, select_queries: QuerySelector) -> Predictions:
        """Predict from the maps [B, C, h, w] of the levels.

        Args:
            maps: As many as levels, in the order of `grid`.
            grid: Geometry of their cells.
            select_queries: Picks the tokens that become queries; see `pe_spatial.detection.deta.proposals`.

        Raises:
            OptionError: The maps have fewer cells than there are queries to be chosen among them.
        """
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)  # [B, S, C]
        if self.two_stage and tokens.shape[1] < self.num_queries:
            raise OptionError(
                f"{self.num_queries} queries cannot be chosen among only {tokens.shape[1]} cells of levels "
                f"{list(grid.shapes)}; lower transformer.num_queries or use larger images"
            )
        tokens = self._encode(tokens, grid)
        if not self.two_stage:
            return Predictions(None, self._decode(self._learned(len(tokens)), tokens, grid))
        memory, proposals = self._propose(tokens, grid)
        # the selection is not differentiable
        with torch.no_grad():
            chosen = select_queries(proposals.logits[..., 0], proposals.boxes, grid, self.num_queries)
            boxes = proposals.boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
            features = memory.gather(1, chosen[..., None].expand(-1, -1, memory.shape[-1]))
        return Predictions(proposals, self._decode(self._proposed(features, boxes), tokens, grid))

    def _encode(self, tokens: Tensor, grid: TokenGrid) -> Tensor:
        positions = grid.positions(tokens.shape[-1]) + self.level_embed[grid.levels]  # [B, S, C]
        references = grid.centers[:, :, None] * grid.ratios[:, None]  # [B, S, L, 2]
        for layer in self.encoder.layers:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                tokens = checkpoint(layer, tokens, positions, references, grid, use_reentrant=False)
            else:
                tokens = layer(tokens, positions, references, grid)
        return tokens

    def _propose(self, tokens: Tensor, grid: TokenGrid) -> tuple[Tensor, Prediction]:
        """Features of the tokens as objects, and what they predict; tokens that cannot propose are zero."""
        anchors = grid.anchors(self.anchor_size)
        usable = ((anchors > 0.01) & (anchors < 0.99)).all(dim=-1) & ~grid.padding  # [B, S]
        anchors = anchors.masked_fill(~usable[..., None], 1.0)
        memory = self.enc_output_norm(self.enc_output(tokens.masked_fill(~usable[..., None], 0.0)))
        shift = torch.where(usable[..., None], anchors.logit(), torch.inf)
        boxes = (self.bbox_embed[-1](memory).float() + shift).sigmoid()
        return memory, Prediction(self.class_embed[-1](memory), boxes, anchors)

    def _proposed(self, features: Tensor, boxes: Tensor) -> _Queries:
        """Queries from features [B, Q, C] of tokens and the boxes [B, Q, 4] that they propose."""
        channels = features.shape[-1]
        codes = self.pos_trans_norm(self.pos_trans(sine_code(boxes, channels // 2)))  # [B, Q, 2C]
        positions, queries = codes.split(channels, dim=-1)
        return queries + self.pix_trans_norm(self.pix_trans(features)), positions, boxes

    def _learned(self, images: int) -> _Queries:
        positions, queries = self.query_embed.weight.expand(images, -1, -1).chunk(2, dim=-1)
        return queries, positions, self.reference_points(positions).float().sigmoid()

    def _decode(self, start: _Queries, tokens: Tensor, grid: TokenGrid) -> list[Prediction]:
        queries, positions, references = start
        ratios = grid.ratios.repeat(1, 1, 2)[:, None]  # [B, 1, L, 4]
        layers = []
        # the encoder's heads come last and are not used here
        for layer, classify, refine in zip(self.decoder.layers, self.class_embed, self.bbox_embed, strict=False):
            known = references.shape[-1]  # of a point, the size is not
            queries = layer(queries, positions, references[:, :, None] * ratios[..., :known], tokens, grid)
            refined = (refine(queries).float() + F.pad(references.logit(eps=1e-5), (0, 4 - known))).sigmoid()
            layers.append(Prediction(classify(queries), refined, references))
            references = refined.detach()
        return layers


class _Stack(nn.Module):
    """Layers under the name that they have in the official checkpoints."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


def _class_head(channels: int, num_classes: int) -> Linear:
    head = Linear(channels, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - _PRIOR) / _PRIOR))
    return head


def _box_head(channels: int, size: float = 0.0) -> MLP:
    """A head that leaves boxes where they are until it is trained; `size` is added to the logits of their sizes."""
    head = MLP(channels, channels, 4, depth=3)
    last = head.layers[-1]
    assert isinstance(last, Linear)
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([0.0, 0.0, size, size]))
    return head


def _linear_norm(channels: int) -> tuple[Linear, nn.LayerNorm]:
    linear = Linear(channels, channels)
    nn.init.xavier_uniform_(linear.weight)
    return linear, nn.LayerNorm(channels)
