"""`SharedPredictor`: several models on one frozen encoder, which sees every picture once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pe_spatial.common.errors import ConfigError, OptionError, require_choice, require_positive
from pe_spatial.common.names import check_folder_names
from pe_spatial.common.pictures import ValueRule
from pe_spatial.common.trust import trusting
from pe_spatial.inference.inputs import Channels, Picture, list_pictures
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.sample import PredictedSample, checked_threshold
from pe_spatial.inference.shared_groups import MUST_SHARE, Sharing
from pe_spatial.inference.shared_tracking import Masks, track_frames
from pe_spatial.inference.tasks import open_predictor

Results = dict[str, PredictedSample]


def check_models(names: Sequence[str]) -> None:
    """Refuse no model at all, and names that cannot name the folders of their results.

    Raises:
        OptionError: See `check_folder_names`.
    """
    if not names:
        raise OptionError("no checkpoint is given; give a name and a run for each model, such as {'seg': 'runs/seg'}")
    check_folder_names(names)


class SharedPredictor:
    """Runs several models on the same pictures. They share the decoding and one pass of the encoder.

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
            A difference is an error that names the option or the tensor.
        allow_urls: Download pictures that are given as addresses (http, https).
        trust: Packages of your own that the configs may import; see SECURITY.md.

    Attributes:
        predictors: By name.
        batch_size: How many images go through the models at once.
        max_pixels: Larger images of files are refused.

    Raises:
        CheckpointError: A file is missing, damaged, does not describe itself, or does not fit its config.
        OptionError: An invalid name, or one that is given twice.
        UserError: Models differ in something that they must have in common.
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
        for name, predictor in predictors.items():
            if predictor.engine != "torch":
                raise OptionError(
                    f"{name}: {predictor.checkpoint} runs in {predictor.engine}, and models can share an encoder only "
                    "in torch; give its checkpoint"
                )
        self.predictors = predictors
        self.sharing = Sharing(predictors, must_share)
        self.batch_size, self.max_pixels = self._first.batch_size, self._first.max_pixels

    # --- what there is ------------------------------------------------------------------------------------------------
    @property
    def summary(self) -> tuple[str, ...]:
        """What is shared, what is not, and why, in lines."""
        return self.sharing.summary

    @property
    def passes(self) -> tuple[int, int]:
        """Pictures, windows and tiles that went through shared encoders so far, and those that needed no pass."""
        return self.sharing.passes

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
            twin = next((other for other in packed if self.sharing.prepare_alike(other, name)), None)
            if twin is None:
                packed[name] = predictor.transform(dict(sample))
            else:
                packed[name] = {**packed[twin], "data_samples": packed[twin]["data_samples"].clone()}
        return packed

    def predict(self, samples: Sequence[dict[str, Any]]) -> list[Results]:
        """Run the models on prepared pictures."""
        with self.sharing.remembering():
            return self.run_models(samples)

    def run_models(self, samples: Sequence[dict[str, Any]]) -> list[Results]:
        """Run one model after the other; what passes remember stays until `remembering` ends."""
        results: list[Results] = [{} for _ in samples]
        for name, predictor in self.predictors.items():
            found = predictor.predict([sample[name] for sample in samples])
            for result, prediction in zip(results, found, strict=True):
                result[name] = prediction
        return results

    # --- tracking -----------------------------------------------------------------------------------------------------
    def track(
        self, tracker: Any, frames: Iterable[Picture], masks: Masks, channels: Channels = "rgb"
    ) -> Iterator[tuple[Results, Tensor]]:
        """Follow objects through a video while the models predict its frames, `batch_size` at a time.

        The tracker takes the pass of models on the same encoder, where it resizes and normalizes a frame to the same
        pixels as they do; elsewhere it runs its own, and `summary` says so after the first frame.

        Args:
            tracker: A `VideoTracker`; from then on its encoder is the shared one. What it followed before is forgotten.
            frames: Of one video, see `Predictor`.
            masks: By the number of the frame, or a function of it; see `VideoTracker.track`.
            channels: The order of colors in arrays and tensors.

        Yields:
            For every frame what the models predict, by name, and uint8 [H, W]: object numbers, 0 = background.

        Raises:
            OptionError: No object.
            UserError: The encoder of the tracker is another one, or `must_share` is `pass` and its frames are others.
        """
        return track_frames(self, tracker, frames, masks, channels)


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
