"""The same head on every layer of one frozen encoder, trained and judged side by side: each image is encoded once."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.registry import METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from pe_spatial.backbones.contract import build_backbone, with_statistics
from pe_spatial.common.errors import ConfigError, UserError
from pe_spatial.common.parts import ModalModel
from pe_spatial.training.launch import train
from pe_spatial.training.progress import read_metrics


class SharedEncoder:
    """Remembers what a backbone made of the inputs of one step, so that many heads ask and it runs once.

    A head may cut the image into windows of its own; heads of one kind cut equal windows, so an input is recognized by
    its content.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self._known: list[tuple[Tensor, tuple[Tensor, ...]]] = []

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps of a batch, computed once until they are forgotten."""
        for known, maps in self._known:
            if known is x or (known.shape == x.shape and torch.equal(known, x)):
                return maps
        self._known.append((x, self.backbone(x)))
        return self._known[-1][1]

    def forget(self) -> None:
        """Free the maps of the last step."""
        self._known.clear()


@MODELS.register_module()
class OneOfManyMaps(nn.Module):
    """A backbone that is one map of a `SharedEncoder`; holds no parameters.

    Args:
        shared: the encoder of all probes.
        index: which of its maps.

    Attributes:
        channels, strides: as of any backbone, for one map.
    """

    def __init__(self, shared: SharedEncoder, index: int) -> None:
        super().__init__()
        self.shared = shared
        self.index = index
        self.channels = (shared.backbone.channels[index],)  # type: ignore[index]
        self.strides = (shared.backbone.strides[index],)  # type: ignore[index]
        self.patch_size = shared.backbone.patch_size

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The one map."""
        return (self.shared(x)[self.index],)

    def layer_of(self, parameter_name: str) -> int:
        """Raise a KeyError, as of every backbone for a parameter that it does not have: this one has none."""
        raise KeyError(parameter_name)


@MODELS.register_module()
class LayerProbes(ModalModel):
    """One copy of a model per layer of its frozen backbone, without copies of the backbone.

    The probes share no parameter, so the sum of their losses trains each as if it were alone, with one exception:
    gradient clipping sees the norm of all of them.

    Args:
        model: config of any model whose backbone has `layers`, with `frozen: true`.
        layers: blocks of the encoder.
        data_preprocessor: config of the batch preparation, in place of the model's own.

    Raises:
        ConfigError: the backbone has no layers to choose from, or is trained.
    """

    def __init__(
        self, model: Mapping[str, Any], layers: Sequence[int], data_preprocessor: Mapping[str, Any] | None = None
    ) -> None:
        backbone = model.get("backbone", {})
        if "layers" not in backbone or backbone.get("frozen") is not True:
            raise ConfigError(
                "a sweep compares the layers of a frozen encoder, but model.backbone has "
                f"layers={backbone.get('layers')} and frozen={backbone.get('frozen')}; use a config with layers and "
                "frozen: true"
            )
        encoder = build_backbone({**backbone, "layers": list(layers)}, type(self).__name__)
        super().__init__(with_statistics(data_preprocessor, encoder))
        self.layers = tuple(layers)
        self.encoder = encoder
        self.shared = SharedEncoder(self.encoder)
        self.probes = nn.ModuleDict()
        for index, layer in enumerate(self.layers):
            part = {"type": "OneOfManyMaps", "shared": self.shared, "index": index}
            self.probes[str(layer)] = MODELS.build({**model, "backbone": part, "data_preprocessor": None})

    @property
    def task(self) -> str:
        """That of the probes."""
        return next(iter(self.probes.values())).task  # type: ignore[return-value]

    def forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None, mode: str = "tensor"
    ) -> Any:
        """Run every probe, in a mode of `ModalModel`; what the encoder found is forgotten afterwards."""
        try:
            return super().forward(inputs, data_samples, mode)
        finally:
            self.shared.forget()

    def raw(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None) -> dict[str, Any]:
        """Return the raw outputs of every layer."""
        return {layer: probe(inputs, data_samples, "tensor") for layer, probe in self.probes.items()}

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """Return the losses of all, named `layer<n>.<loss>`."""
        return {
            f"layer{layer}.{name}": value
            for layer, probe in self.probes.items()
            for name, value in probe(inputs, data_samples, "loss").items()
        }

    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """Fill the field `layers` of the samples, which maps a layer to its data sample."""
        predictions = {
            int(layer): probe(inputs, [sample.clone() for sample in data_samples], "predict")
            for layer, probe in self.probes.items()
        }
        for index, sample in enumerate(data_samples):
            sample.set_field({layer: samples[index] for layer, samples in predictions.items()}, "layers")
        return list(data_samples)


@METRICS.register_module()
class PerLayerMetric(BaseMetric):
    """Judges the predictions of `LayerProbes`, each layer by metrics of its own.

    Args:
        evaluator: config, or list of configs, of the metrics.
        layers: those of the model.
    """

    default_prefix = "layers"

    def __init__(self, evaluator: Mapping[str, Any] | Sequence[Mapping[str, Any]], layers: Sequence[int]) -> None:
        super().__init__()
        configs = [evaluator] if isinstance(evaluator, Mapping) else evaluator
        self.evaluators = {layer: Evaluator([dict(config) for config in configs]) for layer in layers}

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Hand the prediction of each layer to its metrics."""
        for layer, evaluator in self.evaluators.items():
            evaluator.dataset_meta = self.dataset_meta
            evaluator.process([sample["layers"][layer] for sample in data_samples], data_batch)

    def evaluate(self, size: int) -> dict[str, float]:
        """Return {`layer<n>/<metric>`: value}."""
        results = {layer: evaluator.evaluate(size) for layer, evaluator in self.evaluators.items()}
        return {f"layer{layer}/{name}": value for layer, values in results.items() for name, value in values.items()}

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Not used: `evaluate` asks the metrics of the layers."""
        raise NotImplementedError("PerLayerMetric.evaluate gathers the results of its metrics")


class _Advance(Hook):
    def __init__(self, advance: Callable[[str], None]) -> None:
        self.advance = advance

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        self.advance(f"training, iteration {runner.iter + 1} of {runner.max_iters}")

    def after_val_iter(self, runner: Any, batch_idx: int, *_: Any, **__: Any) -> None:
        self.advance(f"scoring, batch {batch_idx + 1} of {len(runner.val_dataloader)}")


def probe_layers(
    config: Config, layers: Sequence[int], device: str, advance: Callable[[str], None] = lambda text: None
) -> dict[int, dict[str, float]]:
    """Train the config's model on every layer and score it; a run that was interrupted goes on.

    Args:
        config: of a training run on a frozen encoder, with `work_dir`.
        layers: blocks of the encoder.
        device: where to run; must be what mmengine would choose.
        advance: called after every iteration with what is being done.

    Returns:
        For each layer the metrics of the config's `val_evaluator`.

    Raises:
        ConfigError: the encoder is not frozen.
        UserError: another device than training would use.
    """
    if torch.device(device).type != get_device():
        raise UserError(
            f"--device {device}: probes are trained on {get_device()} here; hide the GPU (CUDA_VISIBLE_DEVICES=) or "
            f"remove --device"
        )
    train(_for_all_layers(config, layers), "if-any", hooks=[_Advance(advance)])
    metrics = read_metrics(Path(config.work_dir))[-1]  # a run is scored at its end
    table: dict[int, dict[str, float]] = {layer: {} for layer in layers}
    for key, value in metrics.items():
        layer, _, name = key.partition("/")
        if name:
            table[int(layer.removeprefix("layer"))][name] = value
    return table


def _for_all_layers(config: Config, layers: Sequence[int]) -> Config:
    """The config of the same run with `LayerProbes`, scored once at its end."""
    settings = config.to_dict()
    model = settings["model"]
    settings["model"] = {
        "type": "LayerProbes",
        "layers": list(layers),
        "data_preprocessor": model.pop("data_preprocessor", None),
        "model": model,
    }
    settings["val_evaluator"] = {
        "type": "PerLayerMetric",
        "evaluator": settings["val_evaluator"],
        "layers": list(layers),
    }
    settings["train_cfg"]["val_interval"] = settings["train_cfg"]["max_iters"] + 1
    settings["default_hooks"].pop("pictures", None)
    for option in ("best", "rule"):
        settings["default_hooks"]["checkpoint"].pop(option, None)
    settings["log_level"] = "WARNING"
    return Config(settings, filename=config.filename, format_python_code=False)
