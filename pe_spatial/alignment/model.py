"""SpatialAlignment: a student learns from frozen teachers what its tokens mean and which of them belong together.

Letters: B images; H, W rows and columns of pixels; h, w of tokens, N = h w; C channels of the student, K of a teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.alignment.distillation import Distillation, DistillationOptions, token_weights
from pe_spatial.alignment.global_tokens import watch_global_tokens
from pe_spatial.alignment.hiding import fill_hidden, hidden_tokens
from pe_spatial.alignment.losses import locality_loss, semantic_loss, target_similarity
from pe_spatial.alignment.metric import correlation, effective_rank, pairwise_cosines
from pe_spatial.alignment.options import Fill, GramOptions, LocalityOptions, SemanticOptions, require_used
from pe_spatial.alignment.summaries import has_class_token, map_and_summary
from pe_spatial.alignment.targets import Target, ask_teacher, tokens_of
from pe_spatial.alignment.teachers import Teacher
from pe_spatial.alignment.views import ViewOptions, brought_over, cut_windows, reduced, resized, side_of_step
from pe_spatial.backbones import PEBackbone
from pe_spatial.backbones.contract import build_backbone, grid_of, renormalize, with_statistics
from pe_spatial.backbones.fine_maps import require_patches
from pe_spatial.common.errors import ConfigError, require_choice
from pe_spatial.common.linear import Linear
from pe_spatial.common.parts import ModalModel, build_options


@MODELS.register_module()
class SpatialAlignment(ModalModel):
    """Spatial alignment of a Perception Encoder.

    The student sees images of which the tokens in `token_mask` (see `HideTokens`) are hidden, the teachers the same
    images whole; the losses are taken over all tokens, hidden or not.

    Args:
        student: Config of a backbone with one map, the last block's. Official weights are those of a `PEBackbone`.
        teachers: Configs by name; see `pe_spatial.alignment.teachers`.
        semantic: Fields of `SemanticOptions`; None leaves the loss out.
        locality: Fields of `LocalityOptions`; None leaves the loss out.
        fill: What stands in the place of a hidden token. `zero` is the color that PE normalizes to 0: as the patch
            embedding has no bias, the token keeps its position and nothing else, and no parameter is added. `mean` is
            the mean color of the image. `learned` is a patch that is trained along, as in MaskFeat, and not exported.
        data_preprocessor: Config of the batch preparation.
        gram: Fields of `GramOptions`; None leaves the loss out.
        distill: By the name of a teacher, fields of `DistillationOptions`: any number of teachers, each through a head
            of its own.
        alternate: Each step takes one teacher of `distill`, in turn, and not all.
        views: Fields of `ViewOptions`; None shows the images as they come.

    Raises:
        ConfigError: A student with adapters, statistics that are not its own, no loss, an unknown teacher or one that
            no loss uses, widths that differ without a projection, or shifted windows with a loss that takes none.
        OptionError: An unknown `fill`, a student with several maps, or a value outside its range.
    """

    task = "alignment"
    steps: Tensor

    def __init__(
        self,
        student: Mapping[str, Any],
        teachers: Mapping[str, Mapping[str, Any]],
        semantic: Mapping[str, Any] | None = None,
        locality: Mapping[str, Any] | None = None,
        fill: Fill = "zero",
        data_preprocessor: Mapping[str, Any] | None = None,
        gram: Mapping[str, Any] | None = None,
        distill: Mapping[str, Mapping[str, Any]] | None = None,
        alternate: bool = False,
        views: Mapping[str, Any] | None = None,
    ) -> None:
        if student.get("lora") is not None:
            raise ConfigError("student.lora: alignment trains a whole encoder; remove lora")
        module = build_backbone(student, type(self).__name__, maps=1)
        super().__init__(with_statistics(data_preprocessor or {"type": "DensePreprocessor"}, module))
        self._student_config = {**student, "weights": None}
        self.student = module
        # a number that is not defined: only the attention of our own encoders can be watched
        self._unwatched = 0.0 if isinstance(module, PEBackbone) else float("nan")
        require_patches(module, type(self).__name__)
        self.semantic = None if semantic is None else build_options(SemanticOptions, semantic, "semantic")
        self.locality = None if locality is None else build_options(LocalityOptions, locality, "locality")
        self.gram = None if gram is None else build_options(GramOptions, gram, "gram")
        self.alternate = alternate
        single = [loss.teacher for loss in (self.semantic, self.locality, self.gram) if loss is not None]
        require_used(teachers, [*single, *(distill or {})])
        self._set_views(views, single)
        self._teachers = _Shared((name, MODELS.build(dict(teacher)).train()) for name, teacher in teachers.items())
        self.projection = self._build_projection()
        self.distillation = nn.ModuleDict(
            {name: self._build_distillation(name, fields) for name, fields in (distill or {}).items()}
        )
        require_choice("fill", fill, ("zero", "mean", "learned"))
        self.fill = fill
        patch = self.student.patch_size
        self.hidden_patch = nn.Parameter(torch.zeros(3, patch, patch)) if fill == "learned" else None

    @property
    def distilled(self) -> dict[str, Distillation]:
        """What is learned from each teacher of `distill`, by its name."""
        return dict(cast("Iterable[tuple[str, Distillation]]", self.distillation.items()))

    @property
    def teachers(self) -> Mapping[str, Teacher]:
        """By name. They are no submodules: neither checkpoints, optimizers nor distributed wrappers touch them."""
        return self._teachers

    def build_student(self) -> Any:
        """Another backbone like the student, with random weights."""
        return MODELS.build(dict(self._student_config))

    def raw(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> Tensor:
        """The student's map [B, C, h, w] of images [B, 3, H, W], H and W multiples of the patch size."""
        return self.student(reduced(inputs, self.views.reduction))[0]

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """`loss_semantic`, `loss_locality`, `loss_gram` and `loss_TEACHER_LOSS`, as far as they are asked for.

        Args:
            inputs: As those of `raw`.
            data_samples: Optionally with `token_mask`; the rest is what the teachers need.

        Raises:
            ConfigError: A teacher's map lies on another grid than the student's tokens.
            DivergedError: A teacher's features are not finite; names it and the image.
        """
        step = self._count_step()
        if self.views.sizes is not None:
            side = side_of_step(self._sides, step)
            inputs = resized(inputs[: self.views.images(side, self.student.patch_size)], self.views.reduction * side)
            data_samples = data_samples[: len(inputs)]
        turn = self._turn(step)
        targets = self._targets(inputs, data_samples, turn)
        seen, hidden = self._hide(inputs, data_samples)
        features, summary = self._student_map(seen)
        tokens = tokens_of(features)  # [B, N, C]
        losses = {}
        if self.semantic is not None:
            loss = semantic_loss(self.projection(tokens), targets[self.semantic.teacher].tokens)
            losses["loss_semantic"] = self.semantic.weight * loss
        if self.locality is not None:
            loss = locality_loss(tokens, targets[self.locality.teacher].tokens, self.locality.temperature)
            losses["loss_locality"] = self.locality.weight * loss
        if self.gram is not None:
            losses["loss_gram"] = self.gram.weight * locality_loss(tokens, targets[self.gram.teacher].tokens, None)
        for name, part in self.distilled.items():
            if name in turn:
                losses |= self._distill(name, tokens, summary, targets[name], hidden)
            elif self.training:  # distributed training waits for a gradient of every parameter
                losses[f"loss_{name}_idle"] = 0.0 * torch.stack([each.sum() for each in part.parameters()]).sum()
        return losses

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """Fill each sample's `alignment`: how well the student agrees with its teachers; see `AlignmentMetric`."""
        targets = self._targets(inputs, data_samples, list(self.distillation), whole=True)
        with watch_global_tokens(self.student.encoder) as shares:
            tokens = tokens_of(self.raw(inputs)).float()  # [B, N, C]
        projected = self.projection(tokens)
        agreements = {
            name: part.agreement(tokens, targets[name].tokens).tolist() for name, part in self.distilled.items()
        }
        for number, sample in enumerate(data_samples):
            values = {"global_tokens": max((float(share[number]) for share in shares), default=self._unwatched)}
            values["effective_rank"] = effective_rank(tokens[number])
            cosines = {name: found[number] for name, found in agreements.items()}
            if self.semantic is not None:
                target = targets[self.semantic.teacher].tokens[number].float()
                cosines[self.semantic.teacher] = float(F.cosine_similarity(projected[number], target, dim=-1).mean())
            if cosines:
                values["semantic_cosine"] = sum(cosines.values()) / len(cosines)
            if len(cosines) > 1:
                values |= {f"semantic_cosine_{name}": cosine for name, cosine in cosines.items()}
            likeness = self.locality or self.gram
            if likeness is not None:
                temperature = self.locality.temperature if self.locality is not None else None
                wanted = target_similarity(pairwise_cosines(targets[likeness.teacher].tokens[number]), temperature)
                found = pairwise_cosines(tokens[number])
                values["locality_error"] = float((found - wanted).square().mean())
                values["locality_agreement"] = correlation(found, wanted)
            sample.set_metainfo({"alignment": values})
        return list(data_samples)

    # --- the targets --------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def _targets(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement], turn: Sequence[str], whole: bool = False
    ) -> dict[str, Target]:
        """What every teacher gives that is used: those of `turn` of `distill`, and all others.

        Args:
            inputs: As those of `raw`.
            data_samples: As those of `loss`.
            turn: Names of teachers.
            whole: Show whole images and no windows.
        """
        cell = self.student.patch_size * self.views.reduction
        grid = self._grid(inputs, 0 if whole else self.views.shift)
        inputs = renormalize(inputs, self.student, None)  # teachers take images that are normalized as PE's
        targets = {}
        for name, teacher in self.teachers.items():
            part = self.distilled.get(name)
            if part is not None and name not in turn:
                continue
            number = 0 if part is None else 1 + list(self.distillation).index(name)
            shown = inputs if whole else self._window(inputs, data_samples, number, cell)
            source = part.options.summary_source if part is not None and part.options.summary else None
            features, summary = ask_teacher(name, teacher, shown, data_samples, grid, source)
            overlap = None
            if self.views.shift and not whole:
                theirs, ours = ([sample.shifts[place] for sample in data_samples] for place in (number, 0))
                features, overlap = brought_over(features, theirs, ours)
                overlap = overlap.flatten(1)
            targets[name] = Target(tokens_of(features), summary, overlap)
        return targets

    # --- what the student sees ----------------------------------------------------------------------------------------
    def _set_views(self, settings: Mapping[str, Any] | None, single: Sequence[str]) -> None:
        self.views = build_options(ViewOptions, settings or {}, "views")
        if self.views.sizes is not None:
            self._sides = self.views.sides(self.student.patch_size)
        if self.views.shift and single:
            raise ConfigError(
                f"views.shift {self.views.shift} moves the windows of teachers apart, which semantic, locality and "
                f"gram do not support (teachers {', '.join(single)}); use distill alone, or set shift: 0"
            )
        if self.alternate or self.views.sizes is not None:
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def _count_step(self) -> int:
        """The number of this batch, from 0; what depends on it is the same in all processes and after a resume."""
        if "steps" not in self._buffers:
            return 0
        step = int(self.steps)
        if self.training:
            self.steps += 1
        return step

    def _turn(self, step: int) -> list[str]:
        """The teachers of `distill` that this step takes."""
        names = list(self.distillation)
        return [names[step % len(names)]] if self.alternate and names else names

    def _window(self, x: Tensor, data_samples: Sequence[BaseDataElement], number: int, cell: int) -> Tensor:
        """The windows of the student (number 0) or of a teacher, of x [B, C, H, W] with cells of so many entries."""
        most = self.views.shift
        if not most:
            return x
        for sample in data_samples:
            if len(sample.get("shifts", ())) <= len(self.distillation):
                raise ConfigError(
                    f"{sample.get('img_path')}: views.shift {most} needs a window for the student and each of "
                    f"{len(self.distillation)} teachers; put RandomShifts(most={most}, "
                    f"windows={1 + len(self.distillation)}) before PackSample"
                )
        grid = (x.shape[2] // cell - most, x.shape[3] // cell - most)
        if min(grid) < 1:
            raise ConfigError(
                f"views.shift {most} leaves nothing of images with {x.shape[2] // cell} x {x.shape[3] // cell} tokens; "
                "lower it, or use larger images"
            )
        return cut_windows(x, [sample.shifts[number] for sample in data_samples], cell, grid)

    def _grid(self, inputs: Tensor, cut: int) -> tuple[int, int]:
        """Rows and columns of the student's tokens of images [B, 3, H, W] of which so many are cut off."""
        rows, columns = grid_of(self.student, inputs)
        return rows // self.views.reduction - cut, columns // self.views.reduction - cut

    def _hide(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> tuple[Tensor, Tensor | None]:
        """The images [B, 3, H, W] that the student sees, and which of their tokens are hidden, [B, N]."""
        images, patch = reduced(inputs, self.views.reduction), self.student.patch_size
        resample = self.views.sizes is not None and self.training
        hidden = hidden_tokens(data_samples, grid_of(self.student, images), patch * self.views.reduction, resample)
        seen = self._window(fill_hidden(images, hidden, patch, self.fill, self.hidden_patch), data_samples, 0, patch)
        if hidden is None:
            return seen, None
        return seen, self._window(hidden, data_samples, 0, 1).flatten(1).to(images.device)

    def _student_map(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The map [B, C, h, w], and what stands for the whole images [B, C] where a loss asks for it."""
        asked = [part.options.summary_source for part in self.distilled.values() if part.options.summary]
        if not asked:
            return self.student(images)[0], None
        takes_class_token = "cls" in asked and has_class_token(self.student)
        return map_and_summary(self.student, images, "cls" if takes_class_token else "mean")

    # --- what is learned ----------------------------------------------------------------------------------------------
    def _distill(
        self, name: str, tokens: Tensor, summary: Tensor | None, target: Target, hidden: Tensor | None
    ) -> dict[str, Tensor]:
        part = self.distilled[name]
        weights = token_weights(part.options, hidden, target.overlap)
        losses = part(tokens, summary, target.tokens, target.summary, weights)
        return {f"loss_{name}_{kind}": loss for kind, loss in losses.items()}

    def _build_distillation(self, name: str, fields: Mapping[str, Any]) -> Distillation:
        options = build_options(DistillationOptions, fields, f"distill.{name}")
        teacher = self._teachers[name]
        channels = self._channels_of(f"distill.{name}", teacher)
        if options.summary:
            teacher.require_summary(options.summary_source)
        return Distillation(options, self.student.channels[0], channels)

    def _build_projection(self) -> nn.Module:
        if self.semantic is None:
            return nn.Identity()
        width, teacher = self.student.channels[0], self._teachers[self.semantic.teacher]
        channels = self._channels_of(f"semantic.teacher {self.semantic.teacher}", teacher)
        if self.semantic.projection:
            return Linear(width, channels)
        if channels != width:
            raise ConfigError(
                f"semantic.teacher {self.semantic.teacher} has {channels} channels and the student {width}; "
                "set semantic.projection: true"
            )
        return nn.Identity()

    def _channels_of(self, section: str, teacher: Teacher) -> int:
        if teacher.channels is None:
            raise ConfigError(
                f"{section}: {type(teacher).__name__} has no fixed channels and can only teach locality; name an "
                "encoder"
            )
        return teacher.channels

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SpatialAlignment:
        """Move the teachers too, where they are no submodules."""
        for teacher in self._teachers.values():
            teacher._apply(fn)
        return super()._apply(fn, recurse)


class _Shared(dict[str, Teacher]):
    """Teachers that a copy of the model, such as its moving average, has in common with it: they never change."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self
