"""An encoder in an exported file, as a backbone like any other: for features, and for the tracker."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.backbones.contract import sketch
from pe_spatial.common.errors import CheckpointError, OptionError
from pe_spatial.common.graphs import Engine
from pe_spatial.engines.bridge import open_engine
from pe_spatial.engines.header import read_header
from pe_spatial.engines.proof import sha256

_CELLS = 2  # rows and columns of the image that tells how large the maps are


@MODELS.register_module()
class ExportedBackbone(nn.Module):
    """The maps of an encoder that `pe-spatial export --encoder` has written; it cannot be trained.

    It computes where its images are.

    Args:
        file: Of the graph.
        engine: What runs it; `auto` takes the fastest installed one that has passed its proof.
        layers: Blocks of the encoder, of those that the file has, or from the end if negative; None takes all of them.

    Attributes:
        model: Name of the encoder.
        layers: The blocks that the maps come from.
        channels: Of every map.
        strides: Pixels per cell of every map.
        patch_size: Sides of images are multiples of it.
        mean: Of the pixels, per channel, on the scale 0…255.
        std: Their deviation.
        image_size: In pixels, that the encoder is for.
        digest: The hash of the file, so that what depends on weights depends on it.

    Raises:
        CheckpointError: No such file, one without a proof, or one that holds no encoder alone.
        OptionError: A layer that the file does not have, or an engine that does not run it.
        MissingPackage: The engine is not installed.
    """

    free_statistics = False  # the images of its proof were normalized with its own
    digest: Tensor

    def __init__(
        self,
        file: str | Path,
        engine: str = "auto",
        layers: Sequence[int] | Literal["all"] | None = None,
    ) -> None:
        super().__init__()
        path = self._file = Path(file)
        self._engine = engine
        self._opened: dict[torch.device, Engine] = {}
        header = read_header(path)
        prepared: Any = header.preprocessing
        if prepared["task"] != "encoder":
            raise CheckpointError(
                f"{path}: holds a model of {prepared['task']}, not an encoder alone; export the encoder: pe-spatial "
                "export --encoder NAME, or give the file to predict"
            )
        self._precision = header.precision
        self.register_buffer("digest", torch.frombuffer(bytearray.fromhex(sha256(path)), dtype=torch.uint8))
        self.model, self.patch_size = header.source["name"], header.multiple
        self.mean, self.std = tuple(prepared["mean"]), tuple(prepared["std"])
        self.image_size = int(prepared["steps"][0]["image_size"])
        there = [int(name.removeprefix("map_")) for name in header.outputs]
        chosen = there
        if layers is not None and layers != "all":
            chosen = [_layer(path, layer, there) for layer in layers]
        self.layers = tuple(chosen)
        self._places = [there.index(layer) for layer in chosen]
        side = [_CELLS * header.multiple] * 2 if header.size is None else list(header.size)
        maps = self(torch.zeros(header.batch or 1, 3, *side))
        self.channels = tuple(int(each.shape[1]) for each in maps)
        self.strides = tuple(side[0] // int(each.shape[-2]) for each in maps)

    def settings(self) -> dict[str, Any]:
        """What its features depend on besides the weights."""
        return {"type": "ExportedBackbone", "precision": self._precision}

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalized images [B, 3, H, W] to maps [B, C, h, w], one per layer."""
        if x.device not in self._opened:
            self._opened[x.device] = open_engine(self._file, self._engine, x.device)[0]
        maps = self._opened[x.device](x)
        return [maps[place].to(x.dtype) for place in self._places]


def _layer(path: Path, layer: int, there: Sequence[int]) -> int:
    """The number of a layer that may be counted from the end."""
    found = there[layer] if -len(there) <= layer < 0 else layer
    if found not in there:
        raise OptionError(f"{path}: has maps of the layers {list(there)}, not of {layer}; export it with that layer")
    return found


def require_same_encoder(file: str | Path, section: Mapping[str, Any]) -> None:
    """Refuse an exported encoder whose maps are not those of the backbone that it stands in for.

    Args:
        file: Of the graph.
        section: The backbone in a config, whose weights do not count.

    Raises:
        CheckpointError: As of `read_header`.
        OptionError: Names the first setting that differs.
    """
    wanted = sketch(section)
    if not hasattr(wanted, "settings"):
        raise OptionError(f"{file}: cannot stand in for {type(wanted).__name__}, which is never exported")
    described = json.loads(read_header(file).config).get("encoder", {})
    found = {**described.get("settings", {}), "layers": described.get("layers")}
    asked = json.loads(json.dumps({**wanted.settings(), "layers": list(wanted.layers)}))
    for name, value in asked.items():
        if found.get(name) != value:
            raise OptionError(
                f"{file}: has {name} {found.get(name)}, but the config asks for {value}; export what it asks for "
                f'(--encoder "{{type: {type(wanted).__name__}, …}}"), or change model.backbone.{name}'
            )
