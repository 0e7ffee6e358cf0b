"""What the JSON file beside a checkpoint of PLM says and its tensors do not show: heads, positions, pooling, tiles.

transformers writes `config.json` (and `preprocessor_config.json` or `processor_config.json` for the tiles), Meta writes
`params.json`. The architecture that `config.json` names is only where its `model_args` begin: they override it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pe_spatial.backbones import VARIANTS, EncoderConfig
from pe_spatial.common.reading import read_json
from pe_spatial.common.tensors import WeightsError
from pe_spatial.plm.tiles import MAX_TILES, MODES
from pe_spatial.plm.video import MAX_FRAMES

_ARCHITECTURE = re.compile(r"vit_pe_(core|lang|spatial)_(tiny|small|base|large|gigantic)_patch(\d+)_(\d+)(\..*)?")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Sizes:
    """What is stated of a PLM. What no file states is as in the released models.

    Attributes:
        path: Of the file; None without one.
        heads: Of the encoder's attention; None where nothing says it.
        rope: See `PEBackbone`.
        stated: Fields of `EncoderConfig` that the tensors show too, as the file has them.
        pooling: Side of the squares of tokens that become one.
        mode: `thumb+tile` or `vanilla`.
        max_tiles: Without the thumbnail.
        max_frames: Of a video.
    """

    path: Path | None = None
    heads: int | None = None
    rope: str | int = "extrapolate"
    stated: Mapping[str, Any] = field(default_factory=dict)
    pooling: int = 2
    mode: str = "thumb+tile"
    max_tiles: int = MAX_TILES
    max_frames: int = MAX_FRAMES

    def check(self, encoder: EncoderConfig) -> None:
        """Compare what is stated with the encoder that the tensors show.

        Raises:
            WeightsError: They contradict each other.
        """
        for name, value in self.stated.items():
            found = getattr(encoder, name)
            if value != found:
                raise WeightsError(
                    f"{self.path} has {name} {value}, but the tensors have {found}; the file and the weights belong "
                    "to different models: give the right file with config"
                )


def read_sizes(folder: Path, config: Path | None = None) -> Sizes:
    """Read the JSON file of a checkpoint.

    Args:
        folder: Of the checkpoint.
        config: The file; None looks for `config.json` and `params.json` in the folder.

    Raises:
        WeightsError: It describes another kind of model, or holds a value of a wrong kind.
        UnreadableFile: It is damaged.
        FileNotFoundError: There is no file `config`.
    """
    if config is not None:
        content = _Fields(config, read_json(config))
        return _official(content) if "model" in content.values else _transformers(content, config.parent)
    theirs, official = folder / "config.json", folder / "params.json"
    if theirs.is_file():
        return _transformers(_Fields(theirs, read_json(theirs)), folder)
    return _official(_Fields(official, read_json(official))) if official.is_file() else Sizes()


class _Fields:
    """An object of a JSON file, whose fields are checked as they are read."""

    def __init__(self, path: Path, values: Any, name: str = "") -> None:
        if not isinstance(values, dict):
            raise WeightsError(f"{path}: {name or 'the content'} is not an object with fields; download the file again")
        self.path, self.name = path, name
        self.values: dict[str, Any] = values

    def part(self, name: str) -> "_Fields":
        """An object within; an empty one where there is none."""
        value = self.values.get(name)
        return _Fields(self.path, {} if value is None else value, f"{self.name}{name}.")

    def number(self, name: str, default: int | None = None) -> int | None:
        """A positive integer; the first of a pair of equal ones."""
        value = self.values.get(name)
        if isinstance(value, list) and value and all(other == value[0] for other in value):
            value = value[0]
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise WeightsError(f"{self.path}: {self.name}{name} is {str(value)[:60]!r}, not a positive integer")
        return value

    def flag(self, name: str) -> bool | None:
        """Yes or no; None where it is neither."""
        value = self.values.get(name)
        return value if isinstance(value, bool) else None

    def mode(self, name: str) -> str | None:
        """A way to cut pictures; None where it is not said."""
        value = self.values.get(name)
        if value not in (None, *MODES):
            raise WeightsError(f"{self.path}: {self.name}{name} is {str(value)[:60]!r}, not one of {', '.join(MODES)}")
        return None if value is None else str(value)


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _transformers(content: _Fields, folder: Path) -> Sizes:
    kind = content.values.get("model_type")
    if kind != "perception_lm":
        raise WeightsError(
            f"{content.path} describes a model of type {kind!r}, not 'perception_lm'; give the file of a PLM"
        )
    vision = content.part("vision_config")
    arguments = vision.part("model_args")
    base = _architecture(vision.values.get("architecture"))
    reference = arguments.number("ref_feat_shape") or (base.grid_size if base else None)
    stated = _known(
        width=arguments.number("embed_dim"),
        depth=arguments.number("depth"),
        patch_size=arguments.number("patch_size"),
        image_size=arguments.number("img_size"),
        cls_token=content.flag("vision_use_cls_token"),
    )
    options: dict[str, Any] = {}
    for name in _PROCESSORS:
        if (folder / name).is_file():
            whole = _Fields(folder / name, read_json(folder / name))
            pictures = whole.part("image_processor") if "image_processor" in whole.values else whole
            stated |= _known(image_size=pictures.number("tile_size"))
            options |= _known(mode=pictures.mode("vision_input_type"), max_tiles=pictures.number("max_num_tiles"))
    return Sizes(
        content.path,
        arguments.number("num_heads") or (base.heads if base else None),
        reference or "extrapolate",
        stated,
        pooling=content.number("projector_pooling_ratio", 1) or 1,  # transformers' default
        **options,
    )


def _official(content: _Fields) -> Sizes:
    model, data = content.part("model"), content.part("data")
    vision = model.part("vision_model")
    if not vision.values:
        raise WeightsError(
            f"{content.path} does not describe a vision model (model.vision_model); give the file of a PLM"
        )
    stated = _known(
        width=vision.number("width"),
        depth=vision.number("layers"),
        patch_size=vision.number("patch_size"),
        image_size=vision.number("image_size"),
        cls_token=vision.flag("use_cls_token"),
    )
    options = _known(
        mode=data.mode("vision_input_type"),
        max_tiles=data.number("max_num_tiles"),
        max_frames=data.number("max_video_frames"),
    )
    # upstream's default of the pooling is 1
    return Sizes(
        content.path, vision.number("heads"), stated=stated, pooling=model.number("pooling_ratio", 1) or 1, **options
    )


def _architecture(name: object) -> EncoderConfig | None:
    """The released encoder that timm builds under a name before `model_args` change it."""
    match = _ARCHITECTURE.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        return None
    return VARIANTS.get(f"PE-{match[1].title()}-{match[2][0].upper()}{match[3]}-{match[4]}")
