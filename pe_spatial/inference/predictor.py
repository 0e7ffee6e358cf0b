"""`Predictor`: a trained model on single images, exactly as it is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor
from torchvision.transforms import v2

from pe_spatial.common.allocator import keep_freed_memory
from pe_spatial.common.devices import choose_device
from pe_spatial.common.errors import CheckpointError, PictureError, UserError, require_positive
from pe_spatial.common.initialization import SkipInitialization, adopt_weights
from pe_spatial.common.memory import check_pixels
from pe_spatial.common.pictures import ValueRule, to_image
from pe_spatial.common.trust import trusting
from pe_spatial.data import KeepRatioResize
from pe_spatial.engines.header import is_exported
from pe_spatial.engines.models import equip, find_file, require_same_network, shed
from pe_spatial.inference.inputs import Channels, Picture, list_pictures, read_picture
from pe_spatial.inference.sample import PredictedSample, checked_threshold
from pe_spatial.training.amp import compute_in, evaluation_autocast, precision_for
from pe_spatial.training.checkpoint import load_checkpoint, read_config, resolve_checkpoint
from pe_spatial.training.checkpoint_content import weights_of
from pe_spatial.training.checkpoint_hook import compare_keys
from pe_spatial.training.config import drop_pretrained, override_config
from pe_spatial.training.frozen_encoders import restore_encoders, separable_backbones

if TYPE_CHECKING:
    from pe_spatial.inference.naming import InstanceNamer


class Recipe(NamedTuple):
    """A model that nothing was trained for: its config names all of its weights, so there is no checkpoint.

    Args:
        name: What messages call it.
        config: With `model` and the pipeline of `val_dataloader`, as that in a checkpoint. It is of the caller's own
            making, so it is not asked what it imports.
        metainfo: With `classes`, as that in a checkpoint.
    """

    name: str
    config: Mapping[str, Any]
    metainfo: Mapping[str, Any]


class Predictor:
    """Runs the validation pipeline, without its label loaders, and the model of a self-describing checkpoint.

    Args:
        checkpoint: A file written by `tools/train_net.py`, a work folder (its best checkpoint, else its last), or a
            model that `pe-spatial push` has shared: its folder, or `hf://OWNER/NAME[@REVISION]`. Or a file that
            `pe-spatial export` has written. Or a `Recipe`.
        device: E.g. "cuda:1"; None takes CUDA if it is there.
        batch_size: How many images of a list go through the model at once.
        overrides: Entries of the config to change, as `tools/train_net.py` takes them: `model.tta={sizes: [1024]}`.
        allow_urls: Download pictures that are given as addresses (http, https).
        trust: Packages of your own that the config in the checkpoint may import, e.g. ["my_package"]; see SECURITY.md.
        max_pixels: Larger images in files are refused; None: those that do not fit into the free memory.
        engine: The engine: `torch`, or `compile` for `torch.compile`; of exported files `onnxruntime`,
            `openvino` or `tensorrt`; or `auto`, the fastest that has passed its proof. None: `torch` for checkpoints,
            `auto` for exported files.
        precision: In which a checkpoint computes: `fp32`, `bf16`, or `auto`, bf16 where the device has it. None: as
            its config says.

    Attributes:
        engine: What runs the network.
        checkpoint: The file that was loaded. On a CPU the weights are views of it: it may be deleted or replaced
            by another file, but must not be written over in place.
        metainfo: Of the dataset that the model was trained on.
        config: The config that the model was trained with.

    Raises:
        CheckpointError: The file is missing, damaged, does not describe itself, or does not fit its config; or an
            exported file without a proof.
        ConfigError: An override that does not fit the config, or a config that asks for code which is not trusted.
        OptionError: An engine that does not run such a file; or an override of a network that a file has fixed.
    """

    def __init__(
        self,
        checkpoint: str | Path | Recipe,
        device: str | torch.device | None = None,
        batch_size: int = 1,
        overrides: Sequence[str] = (),
        allow_urls: bool = False,
        trust: Sequence[str] = (),
        max_pixels: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.namer: InstanceNamer | None = None
        require_positive(batch_size=batch_size, max_pixels=1 if max_pixels is None else max_pixels)
        recipe = checkpoint if isinstance(checkpoint, Recipe) else None
        content: dict[str, Any] = {}
        if isinstance(checkpoint, Recipe):
            self.checkpoint, self.engine = Path(checkpoint.name), engine or "torch"
        else:
            self.checkpoint, self.engine = find_file(resolve_checkpoint(checkpoint), engine)
            content = load_checkpoint(self.checkpoint)
        self.device = choose_device(device)
        keep_freed_memory()
        self.batch_size = batch_size
        self.allow_urls = allow_urls
        self.max_pixels = max_pixels
        with trusting(trust):
            self.config = Config(dict(recipe.config) if recipe else read_config(content, self.checkpoint))
            metainfo = recipe.metainfo if recipe else content["pe_spatial"].get("metainfo")
            self.metainfo: dict[str, Any] = dict(metainfo or {})
            override_config(self.config, overrides, self.checkpoint)
            compute_in(self.config, precision_for(precision, self.device), self.device)
            scope = DefaultScope.overwrite_default_scope(self.config.get("default_scope", "mmengine"))
            with nullcontext() if recipe else naming_config(self.checkpoint), scope:
                self.model = _build(self.config, content, self.checkpoint).to(self.device).eval()
                equip(self.model, self.checkpoint, self.engine, self.device)
                if named := getattr(self.model, "own_classes", None):  # they go before those of the data
                    self.metainfo = {"classes": named}
                self._load, *steps = Compose(inference_pipeline(self.config)).transforms
                self._load.max_pixels = max_pixels
                self._load.adopt_rule(self.metainfo)
                self._pipeline = Compose(steps)
                self._try_pipeline()
        self._check_classes()
        self.bind_model()

    def _try_pipeline(self) -> None:
        """Prepare a picture of nothing, so that a pipeline which cannot is known before there are results."""
        black = to_image(np.zeros((64, 64, 3), np.uint8))
        sample = self.transform({"img": black, "ori_shape": (64, 64), "img_path": None, "img_id": 0})
        if not isinstance(sample.get("inputs"), Tensor):
            raise CheckpointError(
                f"{self.checkpoint}: the pipeline in its config does not give the model an image (it lacks PackSample)"
            )

    def _check_classes(self) -> None:
        """Compare the classes that the model tells apart with their names in the same file."""
        for part in self.model.modules():
            if not hasattr(part, "check_classes"):
                continue
            if not self.classes:
                raise CheckpointError(f"{self.checkpoint}: its metainfo does not name the classes of its model")
            try:
                part.check_classes(self.metainfo)
            except ValueError as error:
                raise CheckpointError(f"{self.checkpoint}: its class names do not fit: {error}") from error

    def name_instances(self, namer: InstanceNamer) -> None:
        """Let words name the instances from now on, instead of the classes that the model was trained with."""
        self.namer, self.metainfo = namer, {"classes": namer.classes}

    def bind_model(self) -> None:
        """Prepare for `self.model`, or refuse it; for the predictors of tasks. This one takes every model."""

    @property
    def rule(self) -> ValueRule:
        """How the model's pipeline shows pictures of more than 8 bits and more than three bands."""
        return getattr(self._load, "rule", ValueRule())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label; empty where the dataset has none."""
        return tuple(self.metainfo.get("classes") or ())

    def __call__(
        self, pictures: Picture | Iterable[Picture], threshold: float | None = None, channels: Channels = "rgb"
    ) -> Any:
        """Predict.

        Args:
            pictures: One picture: a path, an address (see `allow_urls`), the bytes of a file, a binary file object, a
                PIL image, a uint8 array [H, W], [H, W, 3] or [H, W, 4], or a uint8 tensor [3, H, W] or [1, H, W]. Or
                many: a list, a tuple or a generator of these, an array [B, H, W, 3] or a tensor [B, 3, H, W].
            threshold: Instances that score less are left out; None keeps all.
            channels: The order of colors in arrays and tensors; OpenCV's is "bgr".

        Returns:
            A `PredictedSample` with `pred_*` in the pixels of the given picture, or a list of them for many pictures.

        Raises:
            UnreadableFile: A path, an address or bytes without an image.
            PictureError: Something else that is no picture.
            UserError: An address where none is allowed; a threshold that is no score.
        """
        if threshold is not None:
            checked_threshold(threshold)
        waiting, is_many = list_pictures(pictures)
        predictions: list[PredictedSample] = []
        while batch := [self.prepare(picture, channels) for picture in islice(waiting, self.batch_size)]:
            found = self.predict(batch)
            predictions += found if threshold is None else [sample.filter(threshold) for sample in found]
        return predictions if is_many else predictions[0]

    def load(self, picture: Picture, channels: Channels = "rgb") -> dict[str, Any]:
        """Load one picture as the model's pipeline does: a sample whose `img` is in the frame of the predictions."""
        path = picture if isinstance(picture, str | Path) else None
        if path is not None and Path(path).is_file():
            return self._load({"img_path": str(path), "img_id": 0})
        apply_exif = getattr(self._load, "apply_exif", True)
        image = read_picture(picture, channels, self.allow_urls, apply_exif, self.max_pixels, self.rule)
        return self._load({"img": image, "img_path": None if path is None else str(path), "img_id": 0})

    def prepare(self, picture: Picture, channels: Channels = "rgb") -> dict[str, Any]:
        """Load one picture and run the pipeline on it; threads may do this while the model works."""
        return self.transform(self.load(picture, channels))

    def transform(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Run the pipeline after loading on a sample of `load`; the packed sample has its original `image` too.

        Raises:
            PictureError: An image so thin that the pipeline would make it too large, or nothing at all.
        """
        _check_resizing(self._pipeline.transforms, sample["img"].shape[-2:])
        return {**self._pipeline(sample), "image": sample["img"]}

    def predict(self, samples: Sequence[dict[str, Any]]) -> list[PredictedSample]:
        """Run the model on prepared pictures, `batch_size` at a time."""
        inputs = [{key: value for key, value in sample.items() if key != "image"} for sample in samples]
        predictions = self.infer(inputs)
        if (namer := self.namer) is not None:
            pairs = zip(samples, predictions, strict=True)
            predictions = [namer.name(sample["image"], prediction) for sample, prediction in pairs]
        return [
            PredictedSample.of(prediction, sample.get("image"), self.metainfo)
            for prediction, sample in zip(predictions, samples, strict=True)
        ]

    @torch.no_grad()
    def infer(self, samples: Sequence[dict[str, Any]]) -> list[BaseDataElement]:
        """The model's own data samples of packed samples; predictors of a task replace it."""
        predictions: list[BaseDataElement] = []
        for start in range(0, len(samples), self.batch_size):
            batch = pseudo_collate(samples[start : start + self.batch_size])
            with evaluation_autocast(self.config, self.device):
                predictions += self.model.test_step(batch)
        return predictions


@contextmanager
def naming_config(path: Path) -> Iterator[None]:
    """In the block, what the config of a checkpoint describes and nobody can build is a damage of the checkpoint."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: a file that its config names is missing: {error}; if the encoder under LoRA adapters was "
            "moved, set model.backbone.weights=FILE"
        ) from error
    except Exception as error:  # whatever a constructor raises for options that it was not written for
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path}: what its config describes cannot be built ({type(error).__name__}: {reason}); it is damaged or "
            "was written by another version"
        ) from error


def _check_resizing(steps: Sequence[Any], size: Sequence[int]) -> None:
    """Refuse an image of (H, W) that a step would enlarge beyond the memory, or torchvision's to no pixels."""
    short, long = sorted(size)
    for step in steps:
        if isinstance(step, KeepRatioResize):
            check_pixels(*step.output_size((size[0], size[1])))
        if not isinstance(step, v2.Resize) or step.size is not None and len(step.size) > 1:
            continue
        if step.max_size is None:
            check_pixels(step.size[0], step.size[0] * long // short)
        elif step.max_size * short < long:
            raise PictureError(
                f"an image of {size[0]} x {size[1]} pixels (H x W) is too thin to be resized to a longer side of "
                f"{step.max_size}; crop it"
            )


def inference_pipeline(config: Any) -> list[dict[str, Any]]:
    """The steps of the test (or validation) pipeline without those that need labels (see `Loader.needs_labels`).

    Raises:
        UserError: The config has no such pipeline.
    """
    steps = config[pipeline_loader(config)]["dataset"]["pipeline"]
    with TRANSFORMS.switch_scope_and_registry(None) as registry:
        return [step for step in steps if not getattr(registry.get(step["type"]), "needs_labels", False)]


def pipeline_loader(config: Any) -> str:
    """The entry of a config whose pipeline is that of inference.

    Raises:
        UserError: The config has no such pipeline.
    """
    for name in ("test_dataloader", "val_dataloader"):
        if ((config.get(name) or {}).get("dataset") or {}).get("pipeline"):
            return name
    raise UserError("the config has neither test_dataloader.dataset.pipeline nor val_dataloader.dataset.pipeline")


def _build(config: Any, content: Mapping[str, Any], path: Path) -> BaseModel:
    if config.get("data_preprocessor") is not None:
        config.model.setdefault("data_preprocessor", config.data_preprocessor)
    if not content:  # a recipe
        return MODELS.build(config.model)
    drop_pretrained(config.model)
    with SkipInitialization():
        model = MODELS.build(config.model)
    if is_exported(path):  # its weights are in the graph
        require_same_network(path, config.model.to_dict())
        shed(model)
        return model
    state_dict = weights_of(content, path)
    restore_encoders(content, dict(separable_backbones(model)), path)
    problem = compare_keys(model, state_dict)
    if problem:
        raise CheckpointError(f"{path}: the weights do not fit the config in the same file: {problem}")
    if not state_dict.keys() >= dict(model.named_parameters()).keys():
        model = MODELS.build(config.model)  # it keeps parameters out of its state dict, so they are its own to set
    adopt_weights(model, state_dict)
    return model
