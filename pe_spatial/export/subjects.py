"""What can be exported: a trained model, or an encoder alone. A subject knows its graph, pictures and measure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pe_spatial.common.errors import CheckpointError, ConfigError, OptionError
from pe_spatial.common.graphs import Engine, Exportable, Network, NetworkGraph
from pe_spatial.common.integrity import content_hash
from pe_spatial.common.reading import read_json
from pe_spatial.common.sources import resolve_sources
from pe_spatial.engines.header import is_exported
from pe_spatial.engines.proof import sha256
from pe_spatial.features import FeatureExtractor
from pe_spatial.inference.predictor import Predictor, inference_pipeline, pipeline_loader
from pe_spatial.inference.tasks import open_predictor
from pe_spatial.training.checkpoint import resolve_checkpoint
from pe_spatial.training.explanation import Measure
from pe_spatial.training.launch import evaluate
from pe_spatial.training.run_config import config_of_checkpoint

_RESIZES = ("KeepRatioResize", "Resize")


class Score(NamedTuple):
    """How good something is on pictures.

    Args:
        values: By the names of measures, the main ones alone.
        measures: What they mean.
        images: How many were judged.
    """

    values: Mapping[str, float | None]
    measures: Mapping[str, Measure]
    images: int


class Subject(Protocol):
    """Something that is exported.

    Attributes:
        graph: Its graph.
        kind: Which of its graphs that is.
        name: For people.
        config: JSON of its config.
        metainfo: Names of classes and the like.
        preprocessing: How pictures become inputs.
        source: `name` and `sha256` of its weights.
        default_size: (H, W) of the pictures that it is for.
    """

    graph: NetworkGraph
    kind: str
    name: str
    config: str
    metainfo: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    source: Mapping[str, str]
    default_size: tuple[int, int]

    def recorded(self, pictures: Sequence[Path]) -> list[tuple[Tensor, ...]]:
        """The inputs of the graph for pictures, one tuple for each pass."""

    def score(self, file: Path | None, engine: str) -> Score:
        """How good an exported file is in an engine; without a file, the model itself in torch."""


class ModelSubject:
    """A trained model.

    Args:
        checkpoint: As of `Predictor`.
        image_size: (H, W) of a file for one size, which the pictures are then made to fit; None leaves both open.
        kind: Which graph; see the model's `graph`.
        overrides: Of the config, e.g. where the validation data are.
        limit: How many validation images are judged; None: all.

    Raises:
        CheckpointError, ConfigError: As of `Predictor`.
        OptionError: A model without a graph, or a size that does not go with its windows.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        image_size: tuple[int, int] | None = None,
        kind: str = "",
        overrides: Sequence[str] = (),
        limit: int | None = None,
    ) -> None:
        self.checkpoint = resolve_checkpoint(checkpoint)
        if is_exported(self.checkpoint):
            raise CheckpointError(
                f"{self.checkpoint}: is already an exported file; give the checkpoint that it was made from"
            )
        config = config_of_checkpoint(self.checkpoint, overrides)
        fixed = [] if image_size is None else fixing(config, image_size)
        self._overrides = [*overrides, *fixed]
        self.predictor: Predictor = open_predictor(self.checkpoint, "cpu", 1, self._overrides)
        model = self.predictor.model
        if not isinstance(model, Exportable):
            raise OptionError(f"{self.checkpoint}: holds a {type(model).__name__}, which has no graph to export")
        self.kind, self.graph = kind, model.graph(kind)
        self.name = f"{type(model).__name__} of {self.checkpoint}"
        self.config = json.dumps(self.predictor.config.to_dict())
        self.metainfo: Mapping[str, Any] = json.loads(json.dumps(self.predictor.metainfo, default=list))
        preprocessor: Any = self.predictor.model.data_preprocessor
        self.preprocessing: Mapping[str, Any] = {
            "task": str(getattr(model, "task", "")),
            "steps": inference_pipeline(self.predictor.config),
            "mean": preprocessor.mean.flatten().tolist(),
            "std": preprocessor.std.flatten().tolist(),
            "size_divisor": preprocessor.size_divisor,
            "pad_to": None if preprocessor.pad_to is None else list(preprocessor.pad_to),
            "align_corners": bool(getattr(model, "align_corners", False)),
            "window": _window_of(model),
        }
        self.source: Mapping[str, str] = {"name": self.checkpoint.name, "sha256": sha256(self.checkpoint)}
        self.default_size = image_size or _size_of(self.preprocessing, self.graph.multiple)
        self._limit = limit

    def recorded(self, pictures: Sequence[Path]) -> list[tuple[Tensor, ...]]:
        """See `Subject`: what the predictor gives to its network."""
        found: list[tuple[Tensor, ...]] = []
        # a predictor of its own, for the one above keeps its network
        recorder = open_predictor(self.checkpoint, "cpu", 1, self._overrides)
        module = self.graph.module

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            found.append(tuple(tensor.detach().clone() for tensor in inputs))
            outputs: tuple[Tensor, ...] = module(*inputs)
            return outputs

        if self.kind:
            raise OptionError(f"graph {self.kind!r} is not what the model runs, so pictures give it no inputs")
        recorder.model.use_engine(run)
        for picture in pictures:
            recorder(picture)
        return found

    def score(self, file: Path | None, engine: str) -> Score:
        """See `Subject`: the metric of the config on its validation data.

        Raises:
            ConfigError: The config has no such data, or they are not where it says.
        """
        path = file or self.checkpoint
        config = config_of_checkpoint(self.checkpoint, self._overrides)
        if self._limit is not None:
            config[pipeline_loader(config)].dataset.indices = self._limit
        with TemporaryDirectory(prefix="pe_spatial_") as folder:
            config.work_dir, config.log_level = folder, "WARNING"  # the results count, not how they came about
            try:
                evaluate(config, path, Path(folder) / "scores", engine=engine)
            except FileNotFoundError as error:
                raise ConfigError(
                    f"the validation data of the config are missing ({error}); set their folder with "
                    f"{pipeline_loader(config)}.dataset.data_root=FOLDER, or skip the metric: --no-metric"
                ) from error
            card = read_json(Path(folder) / "scores" / "result.json", {"metrics": dict, "headline": list})
        measures = {name: Measure(**fields) for name, fields in card["measures"].items()}
        return Score({name: card["metrics"][name] for name in card["headline"]}, measures, card["images"])


def fixing(config: Any, size: tuple[int, int]) -> list[str]:  # noqa: ANN401 - mmengine's Config
    """Overrides with which every input of a model's network has one size.

    Pictures are made to fit, keeping their shape, and padded; a model with a window has windows of that size, and its
    pictures keep their own.

    Args:
        config: Of the model.
        size: (H, W).
    """
    window = config.model.get("window")
    if window is not None:
        old, stride = window["size"], window.get("stride")
        share = 2 / 3 if stride is None else min(_pair(stride)) / min(_pair(old))
        strides = [max(int(share * side), 1) for side in size]
        return [f"model.window={json.dumps({**window, 'size': list(size), 'stride': strides})}"]
    if size[0] != size[1]:
        raise OptionError(f"image size {list(size)}: pictures are fitted into a square; give one number")
    loader = pipeline_loader(config)
    load, *steps = (dict(step) for step in config[loader].dataset.pipeline)
    kept = [step for step in steps if step["type"].rpartition(".")[2] not in _RESIZES]
    pipeline = [load, {"type": "KeepRatioResize", "max_size": size[0]}, *kept]
    return [
        f"model.data_preprocessor.pad_to={list(size)}",
        f"{loader}.dataset.pipeline={json.dumps(pipeline)}",
    ]


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _window_of(model: Any) -> dict[str, list[int]] | None:  # noqa: ANN401 - its attribute is asked for
    """The window that slides over pictures, in numbers."""
    window = getattr(model, "window", None)
    return None if window is None else {"size": list(window.size), "stride": list(window.stride)}


def _size_of(preprocessing: Mapping[str, Any], multiple: int) -> tuple[int, int]:
    """The size (H, W) of the inputs that the pipeline makes of a square picture, for timing."""
    if preprocessing["pad_to"] is not None:
        return preprocessing["pad_to"][0], preprocessing["pad_to"][1]
    sides = [
        side
        for step in preprocessing["steps"]
        if step["type"].rpartition(".")[2] in _RESIZES
        for side in (step.get("size"), step.get("max_size"))
        if side is not None
    ]
    first = sides[0] if sides else 512
    side = min(first) if isinstance(first, list | tuple) else first
    return (max(side // multiple, 1) * multiple,) * 2


class EncoderSubject:
    """An encoder alone: images to maps.

    Args:
        extractor: With the encoder, its layers and its statistics.
        images: Pictures on which the maps of the file are compared with its own; empty: random ones.
    """

    kind: str = ""

    def __init__(self, extractor: FeatureExtractor, images: Sequence[Path] = ()) -> None:
        backbone = extractor.encoder.backbone
        self.extractor, self._images = extractor, list(images)
        names = tuple(f"map_{number}" for number in extractor.encoder.layers)
        self.graph = NetworkGraph(Network(backbone, backbone), ("images",), names, int(backbone.patch_size))
        self.name = f"encoder {extractor.encoder.name}"
        self.config = json.dumps({"encoder": extractor.description})
        self.metainfo: Mapping[str, Any] = {}
        sizing = extractor.sizing
        self.preprocessing: Mapping[str, Any] = {
            "task": "encoder",
            "steps": [{"type": "Sizing", **asdict(sizing)}],
            "mean": list(extractor.encoder.mean),
            "std": list(extractor.encoder.std),
            "size_divisor": self.graph.multiple,
            "pad_to": None,
            "align_corners": False,
            "window": None,
        }
        self.source: Mapping[str, str] = {"name": extractor.encoder.name, "sha256": content_hash(backbone.state_dict())}
        self.default_size = sizing.target((sizing.image_size, sizing.image_size))

    def recorded(self, pictures: Sequence[Path]) -> list[tuple[Tensor, ...]]:
        """See `Subject`."""
        samples = [self.extractor.load(picture) for picture in pictures]
        return [(self.extractor.normalize(sample["img"][None]).cpu(),) for sample in samples]

    def score(self, file: Path | None, engine: str) -> Score:
        """See `Subject`: the mean cosine of the vectors of all cells, with those of the encoder itself."""
        inputs = self.recorded(self._images) if self._images else [(torch.randn(1, 3, *self.default_size),)]
        run = self._engine(file, engine)
        cosines = []
        for images in inputs:
            with torch.no_grad():
                pairs = zip(self.graph.module(*images), run(*images), strict=True)
                cosines += [torch.cosine_similarity(ours, theirs, dim=1).mean() for ours, theirs in pairs]
        meaning = "the mean cosine of the vectors of all cells with those of the encoder"
        measure = Measure("cosine", meaning, factor=100, unit="%", digits=4)
        return Score({"cosine": float(torch.stack(cosines).mean())}, {"cosine": measure}, len(inputs))

    def _engine(self, file: Path | None, engine: str) -> Engine:
        if file is None:
            module: Engine = self.graph.module
            return module
        from pe_spatial.engines.bridge import open_engine

        return open_engine(file, engine, torch.device("cpu"))[0]


def pictures_of(images: Path | None, most: int) -> list[Path]:
    """Pictures that a path stands for, at most so many, evenly from all of them.

    Raises:
        UserError: No picture.
    """
    if images is None:
        return []
    found = [entry.path for entry in resolve_sources(str(images), ("image",))]
    step = max(len(found) / most, 1.0)
    return [found[int(number * step)] for number in range(min(most, len(found)))]
