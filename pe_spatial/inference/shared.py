"""`SharedPredictor`: several models on one frozen encoder, which sees every picture once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from pe_spatial.common.errors import ConfigError, OptionError, UserError, require_choice, require_positive
from pe_spatial.common.names import check_folder_names
from pe_spatial.common.pictures import ValueRule
from pe_spatial.common.trust import trusting
from pe_spatial.inference.inputs import Channels, Picture, list_pictures
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.sample import PredictedSample, checked_threshold
from pe_spatial.inference.shared_encoders import (
    encoder_difference,
    needed_layers,
    tie_weights,
    what_was_trained,
    why_not_shared,
)
from pe_spatial.inference.shared_inputs import Inputs, view_difference
from pe_spatial.inference.shared_pass import SharedPass, Stub, insert_stub, new_pass, twin
from pe_spatial.inference.tasks import open_predictor

MUST_SHARE = ("pass", "encoder", "nothing")

Results = dict[str, PredictedSample]


def check_models(names: Sequence[str]) -> None:
    """Refuse no model at all, and names that cannot name the folders of their results.

    Raises:
        OptionError: See `check_folder_names`.
    """
    if not names:
        raise OptionError("no checkpoint is given; give a name and a run for each model, such as {'seg': 'runs/seg'}")
    check_folder_names(names)


@dataclass
class _Group:
    """Models that share a pass: the pass, the first of them and its backbone, and how they see pictures, by name."""

    shared: SharedPass
    lead: str
    backbone: Any
    inputs: dict[str, Inputs] = field(default_factory=dict)
    stubs: dict[str, Stub] = field(default_factory=dict)


class SharedPredictor:
    """Runs several models over the same pictures, with one decoding and one pass of the encoder that they share.

        predictor = SharedPredictor({"det": "runs/det", "seg": "runs/seg", "depth": "runs/depth"})
        print(predictor.summary)
        found = predictor("street.jpg")  # found["seg"].pred_sem_seg

    A pass is shared by models whose encoders are the same (options and weights), as those of frozen encoders are, and
    that see pictures in the same way (size, normalization, padding). Of encoders the layers that the models need are
    compared; a mask decoder needs those before its queries. A model that is given other pictures runs its own pass, and
    `summary` says why. Every model predicts what it predicts alone; equal weights are in memory once.

    Args:
        checkpoints: By the names of the results; each as `Predictor` takes it.
        device: E.g. "cuda:1"; None takes CUDA if it is there.
        batch_size: How many images, or windows of them, go through the models at once.
        overrides: Entries of the configs to change, each after the name of its model: `seg.model.window=null`.
        must_share: What models must have in common: `pass`, everything; `encoder`, the same frozen encoder; `nothing`.
            What they have not in common is an error that names the option or the tensor.
        allow_urls: Fetch pictures that are given as addresses (http, https).
        trust: Packages of your own that the configs may import; see SECURITY.md.

    Attributes:
        predictors: By name.

    Raises:
        CheckpointError: A file is missing, damaged, does not describe itself, or does not fit its config.
        OptionError: A name that is none, or that is given twice.
        UserError: Models have not in common what they must.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, str | Path],
        device: str | torch.device | None = None,
        batch_size: int = 1,
        overrides: Sequence[str] = (),
        must_share: str = "encoder",
        allow_urls: bool = False,
        trust: Sequence[str] = (),
    ) -> None:
        require_positive(batch_size=batch_size)
        check_models(list(checkpoints))
        changes = overrides_by_name(overrides, list(checkpoints))
        with trusting(trust):
            predictors = {
                name: open_predictor(path, device, batch_size, changes[name]) for name, path in checkpoints.items()
            }
        for predictor in predictors.values():
            predictor.allow_urls = allow_urls
        self._share(predictors, must_share)

    @classmethod
    def of(cls, predictors: Mapping[str, Predictor], must_share: str = "encoder") -> SharedPredictor:
        """Share what predictors have in common; they are this object's from then on.

        Args:
            predictors: By name, all with one `batch_size`.
            must_share: As of the class.

        Raises:
            OptionError, UserError: As of the class.
        """
        check_models(list(predictors))
        self = cls.__new__(cls)
        self._share(dict(predictors), must_share)
        return self

    def _share(self, predictors: dict[str, Predictor], must_share: str) -> None:
        require_choice("must_share", must_share, MUST_SHARE)
        self.predictors = predictors
        self._must_share = must_share
        self._inputs = {name: Inputs.of(predictor) for name, predictor in predictors.items()}
        self._require_one_reading()
        self._groups: list[_Group] = []
        self._reasons: list[str] = []
        if len(predictors) > 1:
            # who needs the most blocks comes first, for the others need some of them
            for name in sorted(filter(self._is_able, predictors), key=lambda name: -max(self._needs(name))):
                self._place(name)
        for group in self._groups:
            order = [name for name in predictors if name in group.inputs]
            for name in order[:-1]:
                group.stubs[name].keeps = True
            difference = view_difference({name: group.inputs[name] for name in order})
            if difference is not None:
                self._cannot("pass", f"{', '.join(order)}: {difference}")

    def _require_one_reading(self) -> None:
        """Refuse models that decode pictures differently, for each picture is decoded once."""
        (first, reading), *others = self._inputs.items()
        for name, inputs in others:
            difference = reading.reading_difference(inputs)
            if difference is not None:
                raise UserError(
                    f"{name} reads pictures by another rule than {first} ({difference}), and each picture is read "
                    "once; set value_range and bands (--value-range, --bands) or apply_exif alike"
                )

    def _needs(self, name: str) -> tuple[int, ...]:
        return needed_layers(self.predictors[name].model)

    def _is_able(self, name: str) -> bool:
        """Whether the encoder of a model is one whose pass can be shared."""
        reason = why_not_shared(self.predictors[name].model)
        if reason is not None:
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
                return (
                    f"{different}; the encoder of {each} was {trained} in its run: train the other head with "
                    f"--encoder-from that run, or {each} with model.backbone.frozen=true"
                )
        return different

    def _cannot(self, kind: str, reason: str) -> None:
        """Note what is not shared, or refuse it where it must be."""
        if MUST_SHARE.index(self._must_share) <= MUST_SHARE.index(kind):
            allowed = " or ".join(MUST_SHARE[MUST_SHARE.index(kind) + 1 :])
            raise UserError(f"{reason}; with must_share {allowed} (--must-share) it runs its own pass")
        self._reasons.append(reason)

    # --- what there is ------------------------------------------------------------------------------------------------
    @property
    def summary(self) -> tuple[str, ...]:
        """What is shared, what is not, and why."""
        lines = []
        for group in self._groups:
            names = [name for name in self.predictors if name in group.inputs]
            if len(names) > 1:
                layers = ", ".join(map(str, group.shared.layers))
                lines.append(f"{', '.join(names)} share one pass of {self._encoder_name(names[0])}, layers {layers}")
        return (*lines, *(f"{reason}; it runs its own pass" for reason in self._reasons))

    def _encoder_name(self, name: str) -> str:
        settings = self.predictors[name].config.model.backbone
        known = settings.get("variant") or settings.get("model")
        return str(known.get("name", "an encoder") if isinstance(known, Mapping) else known)

    @property
    def passes(self) -> tuple[int, int]:
        """Pictures, windows and tiles that went through shared encoders so far, and those that needed no pass."""
        shared = [group.shared for group in self._groups]
        return sum(each.computed for each in shared), sum(each.reused for each in shared)

    @property
    def batch_size(self) -> int:
        """How many images go through the models at once."""
        return self._first.batch_size

    @property
    def max_pixels(self) -> int | None:
        """Larger images of files are refused."""
        return self._first.max_pixels

    @property
    def rule(self) -> ValueRule:
        """How pictures of more than 8 bits and more than three bands are shown."""
        return self._first.rule

    @property
    def _first(self) -> Predictor:
        return next(iter(self.predictors.values()))

    # --- prediction ---------------------------------------------------------------------------------------------------
    def __call__(
        self, pictures: Picture | Iterable[Picture], threshold: float | None = None, channels: Channels = "rgb"
    ) -> Any:
        """Predict.

        Args:
            pictures: One or many, see `Predictor`.
            threshold: Instances that score less are left out; None keeps all.
            channels: The order of colors in arrays and tensors; OpenCV's is "bgr".

        Returns:
            What every model predicts, a `PredictedSample` by its name; or a list of such for many pictures.

        Raises:
            UserError: As of `Predictor`.
        """
        if threshold is not None:
            checked_threshold(threshold)
        waiting, is_many = list_pictures(pictures)
        results: list[Results] = []
        while batch := [self.transform(self.load(each, channels)) for each in islice(waiting, self.batch_size)]:
            found = self.predict(batch)
            if threshold is not None:
                found = [{name: sample.filter(threshold) for name, sample in each.items()} for each in found]
            results += found
        return results if is_many else results[0]

    def load(self, picture: Picture, channels: Channels = "rgb") -> dict[str, Any]:
        """Load one picture, once for all models."""
        return self._first.load(picture, channels)

    def transform(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Run the pipelines after loading, equal ones once; packed samples by the names of the models.

        Raises:
            PictureError: An image that one of the models cannot take.
        """
        packed: dict[str, Any] = {}
        for name, predictor in self.predictors.items():
            twin = next((other for other in packed if self._inputs[other].steps == self._inputs[name].steps), None)
            if twin is None:
                packed[name] = predictor.transform(dict(sample))
            else:
                packed[name] = {**packed[twin], "data_samples": packed[twin]["data_samples"].clone()}
        return packed

    def predict(self, samples: Sequence[dict[str, Any]]) -> list[Results]:
        """Run the models, one after the other, on prepared pictures."""
        results: list[Results] = [{} for _ in samples]
        with self._remembering():
            for name, predictor in self.predictors.items():
                found = predictor.predict([sample[name] for sample in samples])
                for result, prediction in zip(results, found, strict=True):
                    result[name] = prediction
        return results

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        """In the block the passes of all groups remember what they compute."""
        with ExitStack() as stack:
            for group in self._groups:
                stack.enter_context(group.shared.remembering())
            yield


def overrides_by_name(overrides: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Overrides `NAME.key=value` by the names of the models.

    Raises:
        ConfigError: One that belongs to no model.
    """
    changes: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        name = next((name for name in names if override.startswith(f"{name}.")), None)
        if name is None:
            raise ConfigError(
                f"{override!r} does not say which model it changes; write the name first: {names[0]}.{override}"
            )
        changes[name].append(override.removeprefix(f"{name}."))
    return changes
