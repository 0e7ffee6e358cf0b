"""`Predictor`: a trained model on single images, exactly as it is evaluated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pe_spatial.common.errors import CheckpointError, UserError
from pe_spatial.training.amp import evaluation_autocast
from pe_spatial.training.checkpoint import find_best, find_last, load_checkpoint, read_config
from pe_spatial.training.checkpoint_hook import compare_keys
from pe_spatial.training.config import drop_pretrained, import_packages, override_config

Picture = str | Path | Image.Image | NDArray[Any] | Tensor


class Predictor:
    """Runs the validation pipeline, without its label loaders, and the model of a self-describing checkpoint.

    Args:
        checkpoint: A file written by `tools/train_net.py`, or a work folder (its best checkpoint, else its last).
        device: E.g. "cuda:1"; None takes CUDA if it is there.
        batch_size: How many images of a list go through the model at once.
        overrides: Entries of the config to change, as `tools/train_net.py` takes them: `model.tta={sizes: [1024]}`.

    Attributes:
        metainfo: Of the dataset that the model was trained on.
        config: The config that the model was trained with.

    Raises:
        CheckpointError: The file is missing, damaged, does not describe itself, or does not fit its config.
        ConfigError: An override that does not fit the config.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | torch.device | None = None,
        batch_size: int = 1,
        overrides: Sequence[str] = (),
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} must be at least 1")
        path = resolve_checkpoint(checkpoint)
        content = load_checkpoint(path)
        self.config = Config(read_config(content, path))
        self.metainfo: dict[str, Any] = content["pe_spatial"].get("metainfo") or {}
        self.device = _device(device)
        self.batch_size = batch_size
        import_packages(self.config)
        override_config(self.config, overrides)
        with DefaultScope.overwrite_default_scope(self.config.get("default_scope", "mmengine")):
            self.model = _build(self.config, content["state_dict"], path).to(self.device).eval()
            self._load, *steps = Compose(inference_pipeline(self.config)).transforms
            self._pipeline = Compose(steps)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label; empty where the dataset has none."""
        return tuple(self.metainfo.get("classes", ()))

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Any:
        """Predict.

        Args:
            pictures: A path, a PIL image, an RGB uint8 array [H, W, 3] or tensor [3, H, W], or a list of these.

        Returns:
            A data sample with `pred_*` in the pixels of the given image, or a list of them for a list.

        Raises:
            UnreadableFile: A path that is no image.
            ValueError: An array or tensor of another shape or type.
        """
        if isinstance(pictures, list | tuple):
            return self.predict([self.prepare(picture) for picture in pictures])
        return self.predict([self.prepare(pictures)])[0]  # type: ignore[arg-type]

    def load(self, picture: Picture) -> dict[str, Any]:
        """Load one image as the model's pipeline does: a sample whose `img` is in the frame of the predictions."""
        if isinstance(picture, str | Path):
            return self._load({"img_path": str(picture), "img_id": 0})
        return self._load({"img": picture, "img_path": None, "img_id": 0})

    def prepare(self, picture: Picture) -> dict[str, Any]:
        """Load one image and run the pipeline on it; threads may do this while the model works."""
        return self.transform(self.load(picture))

    def transform(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Run the pipeline after loading on a sample of `load`."""
        return self._pipeline(sample)

    @torch.no_grad()
    def predict(self, samples: Sequence[dict[str, Any]]) -> list[BaseDataElement]:
        """Run the model on prepared images, `batch_size` at a time."""
        predictions: list[BaseDataElement] = []
        for start in range(0, len(samples), self.batch_size):
            batch = pseudo_collate(samples[start : start + self.batch_size])
            with evaluation_autocast(self.config, self.device):
                predictions += self.model.test_step(batch)
        return predictions


def inference_pipeline(config: Any) -> list[dict[str, Any]]:
    """The steps of the test (or validation) pipeline that need no labels: without Load… other than LoadImage….

    Raises:
        UserError: The config has no such pipeline.
    """
    for name in ("test_dataloader", "val_dataloader"):
        steps = ((config.get(name) or {}).get("dataset") or {}).get("pipeline")
        if steps:
            names = [step["type"].rpartition(".")[2] for step in steps]
            return [step for step, name in zip(steps, names, strict=True) if _needs_no_labels(name)]
    raise UserError("the config has neither test_dataloader.dataset.pipeline nor val_dataloader.dataset.pipeline")


def _needs_no_labels(name: str) -> bool:
    return name.startswith("LoadImage") or not name.startswith("Load")


def _build(config: Any, state_dict: dict[str, Tensor], path: Path) -> BaseModel:
    drop_pretrained(config.model)
    if config.get("data_preprocessor") is not None:
        config.model.setdefault("data_preprocessor", config.data_preprocessor)
    model = MODELS.build(config.model)
    problem = compare_keys(model, state_dict)
    if problem:
        raise CheckpointError(f"{path}: the weights do not fit the config in the same file: {problem}")
    model.load_state_dict(state_dict)
    return model


def resolve_checkpoint(checkpoint: str | Path) -> Path:
    """The file that a checkpoint, or the work folder of a training run, stands for.

    Raises:
        CheckpointError: A folder without a complete checkpoint.
    """
    path = Path(checkpoint)
    if not path.is_dir():
        return path
    found = find_best(path) or find_last(path)
    if found is None:
        raise CheckpointError(f"{path}: a folder without a complete checkpoint")
    return found


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {str(chosen)!r}: torch sees no CUDA device here; use device='cpu'")
    return chosen
