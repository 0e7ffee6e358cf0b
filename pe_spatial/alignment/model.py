"""SpatialAlignment: a student learns from frozen teachers what its tokens mean and which of them belong together.

Letters: B images; H, W rows and columns of pixels; h, w of tokens, N = h w; C channels of the student, K of a teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from mmengine.registry import METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.alignment.global_tokens import watch_global_tokens
from pe_spatial.alignment.losses import locality_loss, semantic_loss, target_similarity
from pe_spatial.alignment.teachers import Teacher
from pe_spatial.backbones import PEBackbone
from pe_spatial.backbones.contract import build_backbone, grid_of, renormalize, with_statistics
from pe_spatial.backbones.fine_maps import require_patches
from pe_spatial.common.errors import ConfigError, require_choice, suggest
from pe_spatial.common.parts import ModalModel
from pe_spatial.training.explanation import ExplainedMetric, Measure

Fill = Literal["zero", "mean", "learned"]


@dataclass(frozen=True)
class SemanticOptions:
    """Settings of the semantic loss, which pulls the tokens towards those of a teacher.

    Args:
        teacher: Its name among the model's `teachers`.
        weight: Of the loss.
        projection: Compare after a linear layer from the student's width to the teacher's; it is not exported. Needed
            where the widths differ.
    """

    teacher: str
    weight: float = 1.0
    projection: bool = False


@dataclass(frozen=True)
class LocalityOptions:
    """Settings of the locality loss, which pulls the cosines between tokens towards those of a teacher.

    Args:
        teacher: Its name among the model's `teachers`.
        weight: Of the loss.
        temperature: See `locality_loss`; null compares with the teacher's cosines as they are.
    """

    teacher: str
    weight: float = 1.0
    temperature: float | None = 20.0


@MODELS.register_module()
class SpatialAlignment(ModalModel):
    """Spatial alignment of a Perception Encoder.

    The student sees images of which the tokens in `token_mask` (see `HideTokens`) are hidden, the teachers the same
    images whole; both losses are taken over all tokens, hidden or not.

    Args:
        student: Config of a backbone with one map, the last block's. Official weights are those of a `PEBackbone`.
        teachers: Configs by name; see `pe_spatial.alignment.teachers`.
        semantic: Fields of `SemanticOptions`; None leaves the loss out.
        locality: Fields of `LocalityOptions`; None leaves the loss out.
        fill: What stands in the place of a hidden token. `zero` is the color that PE normalizes to 0: as the patch
            embedding has no bias, the token keeps its position and nothing else, and no parameter is added. `mean` is
            the mean color of the image. `learned` is a patch that is trained along, as in MaskFeat, and not exported.
        data_preprocessor: Config of the batch preparation.

    Raises:
        ConfigError: A student with adapters, statistics that are not its own, no loss, an unknown teacher or one that
            no loss uses, or widths that differ without a projection.
        OptionError: An unknown `fill`, or a student with several maps.
    """

    task = "alignment"

    def __init__(
        self,
        student: Mapping[str, Any],
        teachers: Mapping[str, Mapping[str, Any]],
        semantic: Mapping[str, Any] | None = None,
        locality: Mapping[str, Any] | None = None,
        fill: Fill = "zero",
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        if student.get("lora") is not None:
            raise ConfigError("student.lora: alignment makes new weights of a whole encoder; leave lora out")
        module = build_backbone(student, type(self).__name__, maps=1)
        super().__init__(with_statistics(data_preprocessor or {"type": "DensePreprocessor"}, module))
        self._student_config = {**student, "weights": None}
        self.student = module
        # a number that is not defined: only the attention of our own encoders can be watched
        self._unwatched = 0.0 if isinstance(module, PEBackbone) else float("nan")
        require_patches(module, type(self).__name__)
        self.semantic = None if semantic is None else SemanticOptions(**semantic)
        self.locality = None if locality is None else LocalityOptions(**locality)
        _check_names(teachers, self.semantic, self.locality)
        self._teachers = _Shared((name, MODELS.build(dict(teacher)).train()) for name, teacher in teachers.items())
        self.projection = self._build_projection()
        require_choice("fill", fill, ("zero", "mean", "learned"))
        self.fill = fill
        patch = self.student.patch_size
        self.hidden_patch = nn.Parameter(torch.zeros(3, patch, patch)) if fill == "learned" else None

    @property
    def teachers(self) -> Mapping[str, Teacher]:
        """By name. They are no submodules: neither checkpoints, optimizers nor distributed wrappers touch them."""
        return self._teachers

    def build_student(self) -> Any:
        """Another backbone like the student, with random weights."""
        return MODELS.build(dict(self._student_config))

    def raw(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> Tensor:
        """The student's map [B, C, h, w] of images [B, 3, H, W], H and W multiples of the patch size."""
        return self.student(inputs)[0]

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """`loss_semantic` and `loss_locality`, as far as they are asked for.

        Args:
            inputs: As those of `raw`.
            data_samples: Optionally with `token_mask`; the rest is what the teachers need.

        Raises:
            ConfigError: A teacher's map lies on another grid than the student's tokens.
        """
        targets = self._targets(inputs, data_samples)
        tokens = _tokens(self.student(self._hide(inputs, data_samples))[0])  # [B, N, C]
        losses = {}
        if self.semantic is not None:
            loss = semantic_loss(self.projection(tokens), targets[self.semantic.teacher])
            losses["loss_semantic"] = self.semantic.weight * loss
        if self.locality is not None:
            loss = locality_loss(tokens, targets[self.locality.teacher], self.locality.temperature)
            losses["loss_locality"] = self.locality.weight * loss
        return losses

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """Fill each sample's `alignment`: how well the student agrees with its teachers; see `AlignmentMetric`."""
        targets = self._targets(inputs, data_samples)
        with watch_global_tokens(self.student.encoder) as shares:
            tokens = _tokens(self.student(inputs)[0]).float()  # [B, N, C]
        projected = self.projection(tokens)
        for number, sample in enumerate(data_samples):
            values = {"global_tokens": max((float(share[number]) for share in shares), default=self._unwatched)}
            if self.semantic is not None:
                target = targets[self.semantic.teacher][number].float()
                values["semantic_cosine"] = float(F.cosine_similarity(projected[number], target, dim=-1).mean())
            if self.locality is not None:
                wanted = target_similarity(_cosines(targets[self.locality.teacher][number]), self.locality.temperature)
                difference = _cosines(tokens[number]) - wanted
                values["locality_error"] = float(difference.square().mean())
                values["locality_agreement"] = _correlation(_cosines(tokens[number]), wanted)
            sample.set_metainfo({"alignment": values})
        return list(data_samples)

    @torch.no_grad()
    def _targets(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """Tokens [B, N, K] of every teacher."""
        grid = grid_of(self.student, inputs)
        inputs = renormalize(inputs, self.student, None)  # teachers take images that are normalized as PE's
        targets = {}
        for name, teacher in self.teachers.items():
            features = teacher(inputs, data_samples, grid)
            if tuple(features.shape[2:]) != grid:
                raise ConfigError(
                    f"teacher {name} ({type(teacher).__name__}) gives {tuple(features.shape[2:])} tokens (rows, "
                    f"columns) and the student {grid}; make the maps for the student's grid, or resize the images to "
                    f"{tuple(side * self.student.patch_size for side in features.shape[2:])} pixels"
                )
            targets[name] = _tokens(features)
        return targets

    def _hide(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> Tensor:
        """Replace the hidden patches of images [B, 3, H, W]."""
        if not all("token_mask" in sample for sample in data_samples):
            return inputs
        patch = self.student.patch_size
        hidden = torch.stack([sample.token_mask.data for sample in data_samples]).to(inputs.device)  # [B, 1, h, w]
        grid = grid_of(self.student, inputs)
        if tuple(hidden.shape[2:]) != grid:
            raise ConfigError(
                f"token_mask has {tuple(hidden.shape[2:])} tokens (rows, columns) and the student {grid}; set "
                f"patch_size {patch} in HideTokens, after the last resize"
            )
        hidden = hidden.repeat_interleave(patch, 2).repeat_interleave(patch, 3)  # [B, 1, H, W]
        if self.hidden_patch is not None:
            return torch.where(hidden, self.hidden_patch.repeat(1, *grid), inputs)
        color = inputs.mean(dim=(2, 3), keepdim=True) if self.fill == "mean" else inputs.new_zeros(())
        return torch.where(hidden, color, inputs)

    def _build_projection(self) -> nn.Module:
        if self.semantic is None:
            return nn.Identity()
        width, teacher = self.student.channels[0], self._teachers[self.semantic.teacher]
        if teacher.channels is None:
            raise ConfigError(
                f"semantic.teacher {self.semantic.teacher}: {type(teacher).__name__} has no fixed channels and can "
                "only teach locality; name an encoder"
            )
        if self.semantic.projection:
            return nn.Linear(width, teacher.channels)
        if teacher.channels != width:
            raise ConfigError(
                f"semantic.teacher {self.semantic.teacher} has {teacher.channels} channels and the student {width}; "
                "set semantic.projection: true"
            )
        return nn.Identity()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SpatialAlignment:
        """Move the teachers too, where they are no submodules."""
        for teacher in self._teachers.values():
            teacher._apply(fn)
        return super()._apply(fn, recurse)


class _Shared(dict[str, Teacher]):
    """Teachers that a copy of the model, such as its moving average, has in common with it: they never change."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


@METRICS.register_module()
class AlignmentMetric(ExplainedMetric):
    """Means over images of what `SpatialAlignment` finds in mode "predict", with nothing hidden.

    `align/semantic_cosine`: mean cosine between tokens of student and teacher (after the projection, if there is one).
    `align/locality_error`: mean squared difference of the pairwise matrices, the loss itself.
    `align/locality_agreement`: Pearson's correlation of the two matrices off the diagonal.
    `align/global_tokens`: share of tokens that more than half of the others attend to, in the block with most of them.
    """

    default_prefix = "align"
    headline = ("semantic_cosine", "locality_agreement")
    measures: ClassVar[dict[str, Measure]] = {
        "semantic_cosine": Measure("semantic cosine", "mean cosine between tokens of student and teacher"),
        "locality_error": Measure(
            "locality error", "mean squared difference of the pairwise matrices", higher_is_better=False
        ),
        "locality_agreement": Measure("locality agreement", "correlation of the two pairwise matrices"),
        "global_tokens": Measure("global tokens", "share of tokens that most others attend to", higher_is_better=False),
    }

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the values of a batch."""
        self.results += [sample["alignment"] for sample in data_samples]

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Means."""
        return {name: sum(values[name] for values in results) / len(results) for name in results[0]}


def _check_names(teachers: Mapping[str, Any], *losses: SemanticOptions | LocalityOptions | None) -> None:
    used = [loss.teacher for loss in losses if loss is not None]
    if not used:
        raise ConfigError("neither semantic nor locality is given, so there is nothing to learn; give at least one")
    for name in used:
        if name not in teachers:
            raise ConfigError(f"there is no teacher {name!r}; {suggest(name, teachers)}")
    for name in teachers:
        if name not in used:
            raise ConfigError(f"teacher {name!r} is used by neither loss; remove it or name it in semantic or locality")


def _tokens(features: Tensor) -> Tensor:
    """[B, K, h, w] as [B, N, K]."""
    return features.flatten(2).transpose(1, 2)


def _cosines(tokens: Tensor) -> Tensor:
    """[N, K] to [N, N]."""
    unit = F.normalize(tokens.float(), dim=-1)
    return unit @ unit.T


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, of what stands off the diagonal of two matrices [N, N]; 0 where one of them is constant."""
    outside = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    a, b = a[outside].double(), b[outside].double()
    a, b = a - a.mean(), b - b.mean()
    scale = (a.norm() * b.norm()).clamp_min(1e-12)
    return float(a @ b / scale)
