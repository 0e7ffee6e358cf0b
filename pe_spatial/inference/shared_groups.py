"""Which of several models share a pass of the encoder, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pe_spatial.backbones import PEBackbone
from pe_spatial.common.errors import UserError
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.shared_encoders import (
    encoder_difference,
    needed_layers,
    tie_weights,
    what_was_trained,
    why_not_shared,
)
from pe_spatial.inference.shared_inputs import Inputs, view_difference
from pe_spatial.inference.shared_pass import SharedPass, Stub, insert_stub, new_pass, pass_of, twin

MUST_SHARE = ("pass", "encoder", "nothing")


@dataclass
class _Group:
    """Models that share a pass: the pass, the first of them and its backbone, and how they see pictures, by name."""

    shared: SharedPass
    lead: str
    backbone: Any
    inputs: dict[str, Inputs] = field(default_factory=dict)
    stubs: dict[str, Stub] = field(default_factory=dict)


class Sharing:
    """The groups of models that share a pass; a model that is in none runs its own.

    Args:
        predictors: By name. In the place of their encoders they get stubs.
        must_share: As of `SharedPredictor`.

    Raises:
        UserError: Models differ in something that they must have in common.
    """

    def __init__(self, predictors: Mapping[str, Predictor], must_share: str) -> None:
        self.predictors = predictors
        taken = next((name for name, predictor in predictors.items() if pass_of(predictor.model) is not None), None)
        if taken is not None:
            raise UserError(f"{taken} belongs to another SharedPredictor; build a new predictor for it")
        self._must_share = must_share
        self._inputs = {name: Inputs.of(predictor) for name, predictor in predictors.items()}
        self._require_one_reading()
        self._groups: list[_Group] = []
        self._reasons: list[str] = []
        able = [name for name in predictors if self._is_able(name)]
        # who needs the most layers comes first, for the others need some of them
        for name in sorted(able, key=lambda name: -max(self._needs(name))):
            self._place(name)
        for group in self._groups:
            order = [name for name in predictors if name in group.inputs]
            for name in order[:-1]:
                group.stubs[name].keeps = True
            difference = view_difference({name: group.inputs[name] for name in order})
            if difference is not None:
                self._cannot("pass", f"{', '.join(order)} {difference}", "they share the parts that are equal")

    @property
    def summary(self) -> tuple[str, ...]:
        """What is shared, what is not, and why."""
        lines = []
        for group in self._groups:
            names = [name for name in self.predictors if name in group.inputs]
            if len(names) > 1:
                layers = ", ".join(map(str, group.shared.layers))
                lines.append(f"{', '.join(names)} share one pass of {self._encoder_name(names[0])}, layers {layers}")
        return (*lines, *self._reasons)

    def _encoder_name(self, name: str) -> str:
        settings = self.predictors[name].config.model.backbone
        known = settings.get("variant") or settings.get("model")
        return str(known.get("name", "an encoder") if isinstance(known, Mapping) else known)

    @property
    def passes(self) -> tuple[int, int]:
        """Pictures, windows and tiles that went through shared encoders so far, and those that needed no pass."""
        shared = [group.shared for group in self._groups]
        return sum(each.computed for each in shared), sum(each.reused for each in shared)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """In the block the passes of all groups remember what they compute."""
        with ExitStack() as stack:
            for group in self._groups:
                stack.enter_context(group.shared.remembering())
            yield

    def prepare_alike(self, name: str, other: str) -> bool:
        """Whether the pipelines of two models make the same of a picture."""
        return self._inputs[name].steps == self._inputs[other].steps

    def take_in(self, tracker: Any) -> SharedPass | None:  # noqa: ANN401 - tracking is a floor above
        """The pass that a tracker takes part in; None where there is none for it."""
        taken = pass_of(tracker)
        if taken is not None:
            if all(taken is not group.shared for group in self._groups):
                raise UserError(
                    "this tracker already shares the pass of other models; build another one from its config"
                )
            return taken
        reason = why_not_shared(tracker) or "no model has a pass that can be shared"
        for group in self._groups if why_not_shared(tracker) is None else ():
            settings = [self.predictors[group.lead].config.model.backbone.to_dict()] * 2
            found = encoder_difference(group.backbone, tracker.backbone, settings, max(tracker.backbone.layers))
            if found is None:
                for stub in group.stubs.values():
                    stub.keeps = True
                group.shared.serve(tracker.backbone.layers)
                tie_weights(tracker.backbone, group.backbone)
                insert_stub(tracker, group.shared)
                return group.shared
            reason = f"the tracker cannot share the pass of {group.lead}: {found}"
        self._cannot("encoder", reason)
        return None

    def tell_own_frames(self, tracker: Any, frame: Tensor) -> None:  # noqa: ANN401
        """Note that a tracker sees frames in another way than the models."""
        height, width = tracker.resizing.size((frame.shape[-2], frame.shape[-1]), tracker.patch_size)
        self._cannot("pass", f"the tracker sees frames of {height} x {width} pixels (H x W) that no model sees")

    def _require_one_reading(self) -> None:
        """Refuse models that decode pictures differently, for each picture is decoded once."""
        (first, reading), *others = self._inputs.items()
        for name, inputs in others:
            difference = reading.reading_difference(inputs)
            if difference is not None:
                raise UserError(
                    f"{name} reads pictures differently from {first} ({difference}), but each picture is read only "
                    "once; set value_range and bands (--value-range, --bands) or apply_exif alike"
                )

    def _needs(self, name: str) -> tuple[int, ...]:
        return needed_layers(self.predictors[name].model)

    def _is_able(self, name: str) -> bool:
        """Whether the encoder of a model is one whose pass can be shared."""
        reason = why_not_shared(self.predictors[name].model)
        if reason is not None and len(self.predictors) > 1:
            self._cannot("encoder", f"{name}: {reason}")
        return reason is None

    def _place(self, name: str) -> None:
        """Let a model join the first group that it fits, or begin one."""
        model = self.predictors[name].model
        reasons: dict[str, str] = {}
        for group in self._groups:
            different = self._encoder_difference(group, name)
            kind = "pass" if different is None else "encoder"
            reason = different or group.inputs[group.lead].difference(self._inputs[name])
            if reason is None:
                break
            reasons.setdefault(kind, f"{name} cannot share the pass of {group.lead}: {reason}")
        else:
            for kind in filter(reasons.__contains__, MUST_SHARE[:1] if "pass" in reasons else MUST_SHARE):
                self._cannot(kind, reasons[kind])  # the nearest group says most
            group = _Group(new_pass(model.backbone), name, twin(model.backbone))
            self._groups.append(group)
        group.shared.serve(self._needs(name))
        tie_weights(model.backbone, group.backbone)
        group.stubs[name] = insert_stub(model, group.shared)
        group.inputs[name] = self._inputs[name]

    def _encoder_difference(self, group: _Group, name: str) -> str | None:
        """What differs between the encoder of a group and that of a model, and whether training has made it differ."""
        backbone = self.predictors[name].model.backbone
        settings = [self.predictors[each].config.model.backbone.to_dict() for each in (group.lead, name)]
        different = encoder_difference(group.backbone, backbone, settings, max(self._needs(name)))
        if different is None:
            return None
        for each, encoder in ((name, backbone), (group.lead, group.backbone)):
            trained = what_was_trained(encoder)
            if trained is not None:
                # encoder_from takes runs with a Perception Encoder
                taken = "the other head with --encoder-from that run, or " * isinstance(encoder, PEBackbone)
                return (
                    f"{different}; the encoder of {each} was {trained} in its run: train {taken}{each} with "
                    "model.backbone.frozen=true"
                )
        return different

    def _cannot(self, kind: str, reason: str, otherwise: str = "it runs its own pass") -> None:
        """Note what is not shared, and what happens then, or refuse it where it must be."""
        if MUST_SHARE.index(self._must_share) <= MUST_SHARE.index(kind):
            allowed = " or ".join(MUST_SHARE[MUST_SHARE.index(kind) + 1 :])
            raise UserError(f"{reason}; with must_share {allowed} (--must-share) {otherwise}")
        self._reasons.append(f"{reason}; {otherwise}")
