"""What a student learns from one of several teachers: through a head of its own, towards standardized targets.

Letters: B images; N tokens; C channels of the student; K of the teacher.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.alignment.standardization import METHODS, Method, TargetStandardization
from pe_spatial.alignment.summaries import SOURCES, Source
from pe_spatial.common.errors import OptionError, require_choice
from pe_spatial.common.linear import Linear


@dataclass(frozen=True)
class DistillationOptions:
    """Settings of what is learned from one teacher.

    Args:
        weight: Of all losses of this teacher.
        cosine: Weight of 1 - cosine between tokens.
        smooth_l1: Weight of the smooth L1 distance of tokens, mean over channels, quadratic below 1.
        summary: Weight of 1 - cosine between what stands for the whole image; 0 leaves it out.
        summary_source: `mean` of the tokens, or `cls`: the class token of the teacher, and of the student if it has
            one.
        hidden: Weight of a token that the student does not see.
        visible: Weight of one that it sees.
        standardize: See `TargetStandardization`.
        freeze_after: See `TargetStandardization`.
        head_width: Channels inside the head; None takes the teacher's.

    Raises:
        OptionError: A value outside its range, or no loss at all.
    """

    weight: float = 1.0
    cosine: float = 1.0
    smooth_l1: float = 0.0
    summary: float = 0.0
    summary_source: Source = "mean"
    hidden: float = 1.0
    visible: float = 1.0
    standardize: Method = "none"
    freeze_after: int = 1000
    head_width: int | None = None

    def __post_init__(self) -> None:
        require_choice("summary_source", self.summary_source, SOURCES)
        require_choice("standardize", self.standardize, METHODS)
        for name in ("weight", "cosine", "smooth_l1", "summary", "hidden", "visible"):
            if not getattr(self, name) >= 0:
                raise OptionError(f"{name} {getattr(self, name)} is below 0; 0 leaves it out")
        if self.weight == 0 or not self.cosine + self.smooth_l1 + self.summary > 0:
            raise OptionError("all losses of this teacher have weight 0; remove the teacher or set a weight")
        if self.hidden + self.visible == 0:
            raise OptionError("hidden and visible are both 0, so no token counts; set one of them above 0")


class ProjectionHead(nn.Sequential):
    """Linear, LayerNorm, GELU, Linear: from the student's channels to a teacher's. It is not exported.

    Args:
        channels: C.
        hidden: Channels inside.
        out: K.
    """

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__(Linear(channels, hidden), nn.LayerNorm(hidden), nn.GELU(), Linear(hidden, out))


class Distillation(nn.Module):
    """The heads, the statistics and the losses of one teacher.

    Args:
        options: Settings.
        channels: C.
        out: K.
    """

    def __init__(self, options: DistillationOptions, channels: int, out: int) -> None:
        super().__init__()
        self.options = options
        hidden = options.head_width or out
        self.head = ProjectionHead(channels, hidden, out)
        self.standardization = TargetStandardization(out, options.standardize, options.freeze_after)
        self.summary_head: ProjectionHead | None = None
        if options.summary:
            self.summary_head = ProjectionHead(channels, hidden, out)
            self.summary_standardization = TargetStandardization(out, options.standardize, options.freeze_after)

    def forward(
        self,
        tokens: Tensor,
        summary: Tensor | None,
        target: Tensor,
        target_summary: Tensor | None,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses `cosine`, `smooth_l1` and `summary`, as far as the options ask for them.

        Args:
            tokens: Of the student, [B, N, C].
            summary: Of the student, [B, C]; needed with the loss of the summary.
            target: Of the teacher, [B, N, K].
            target_summary: Of the teacher, [B, K]; likewise.
            weights: Of the tokens, [B, N]; see `token_weights`.
        """
        o = self.options
        if self.training:
            self.standardization.update(target)
        predicted, wanted = self.head(tokens), self.standardization(target)
        losses = {}
        if o.cosine:
            losses["cosine"] = o.cosine * weighted_mean(cosine_distance(predicted, wanted), weights)
        if o.smooth_l1:
            losses["smooth_l1"] = o.smooth_l1 * weighted_mean(smooth_l1_distance(predicted, wanted), weights)
        if self.summary_head is not None:
            assert summary is not None and target_summary is not None
            if self.training:
                self.summary_standardization.update(target_summary)
            wanted = self.summary_standardization(target_summary)
            losses["summary"] = o.summary * cosine_distance(self.summary_head(summary), wanted).mean()
        # before the targets have their final form, nothing is learned from them
        factor = o.weight if self.standardization.ready else 0.0
        return {name: factor * loss for name, loss in losses.items()}

    @torch.no_grad()
    def agreement(self, tokens: Tensor, target: Tensor) -> Tensor:
        """Mean cosine of every image [B] between tokens [B, N, C] through the head and standardized targets."""
        return 1 - cosine_distance(self.head(tokens), self.standardization(target)).mean(-1)


def cosine_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - cosine of vectors [..., K], at least in float32: [...]."""
    return 1 - F.cosine_similarity(_full(predicted), _full(target), dim=-1)


def smooth_l1_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over channels of d^2 / 2 where |d| < 1, else |d| - 1/2; of vectors [..., K]: [...]."""
    return F.smooth_l1_loss(_full(predicted), _full(target), reduction="none").mean(-1)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over images of the weighted mean over tokens [B, N]; images without any weight count as 0.

    An image does not depend on the others of its batch, so that several processes give what one does.
    """
    if weights is None:
        return values.mean()
    weights = weights.to(values.dtype)
    total = weights.sum(-1)
    return ((values * weights).sum(-1) / torch.where(total > 0, total, 1)).mean()


def token_weights(options: DistillationOptions, hidden: Tensor | None, overlap: Tensor | None) -> Tensor | None:
    """Weights [B, N] of tokens; None where all are equal.

    Args:
        options: With `hidden` and `visible`.
        hidden: Bool [B, N], what the student does not see; None hides nothing.
        overlap: [B, N], 1 where the teacher has a target; None has one everywhere.
    """
    weights = overlap
    if hidden is not None and options.hidden != options.visible:
        weights = torch.where(hidden, options.hidden, options.visible)
        weights = weights if overlap is None else weights * overlap
    return weights


def _full(tokens: Tensor) -> Tensor:
    return tokens if tokens.dtype == torch.float64 else tokens.float()
