"""Which encoder a name, a file or the folder of a run stands for: its shape, and where its weights are."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pe_spatial.backbones import VARIANTS, get_variant
from pe_spatial.backbones.weights import read_encoder
from pe_spatial.backbones.weights.loading import expected_shapes, fitting_variants
from pe_spatial.backbones.weights.source import find
from pe_spatial.common.errors import OptionError, UserError
from pe_spatial.common.parts import encoder_key
from pe_spatial.common.tensors import read_tensor_file, shapes_of
from pe_spatial.own.models import TINY_ENCODER
from pe_spatial.training.checkpoint import read_config, resolve_checkpoint
from pe_spatial.training.checkpoint_content import OURS
from pe_spatial.training.run_config import RUN_CONFIG


@dataclass(frozen=True)
class Encoder:
    """An encoder that exists.

    Attributes:
        variant: As a config has it.
        weights: A name or a file.
    """

    variant: str | dict[str, Any]
    weights: str


def weights_of(source: str | Path) -> str:
    """A name, or the file that a path stands for: of the folder of a run its best checkpoint.

    Raises:
        CheckpointError: A run without a complete checkpoint.
    """
    path = Path(source).expanduser()
    if (path / RUN_CONFIG).is_file():
        path = resolve_checkpoint(path)
    return str(path.absolute()) if path.exists() else str(source)


def find_encoder(source: str | Path) -> Encoder:
    """The encoder of a name, a file or a run.

    Raises:
        FileNotFoundError: There is none.
        OptionError: A file with an encoder of a shape that nothing tells.
        WeightsError, CheckpointError: A file that cannot be read, or that holds no encoder.
    """
    weights = weights_of(source)
    if weights in VARIANTS:
        return Encoder(weights, weights)
    path = find(weights)
    variant = _described(path) or _recognized(path)
    return Encoder(variant, str(path))


def _described(path: Path) -> str | dict[str, Any] | None:
    """The variant that the config in a checkpoint of ours names; None for a file without a config."""
    content = dict(read_tensor_file(path))
    if OURS not in content:
        return None
    model = read_config(content, path)["model"]
    settings = model.get(encoder_key(model), {})
    variant: str | dict[str, Any] | None = settings.get("variant")
    patch_size = settings.get("patch_size")
    if variant is None or patch_size is None:
        return variant
    config = get_variant(variant)
    return asdict(replace(config, patch_size=patch_size, image_size=patch_size * config.grid_size))


def _recognized(path: Path) -> str | dict[str, Any]:
    """The released or tiny encoder whose shapes a file has."""
    encoder, _ = read_encoder(path)
    shapes = shapes_of(encoder)
    if shapes == expected_shapes(get_variant(TINY_ENCODER)):
        return dict(TINY_ENCODER)
    names = fitting_variants(shapes)
    if not names:
        width, _, patch, _ = shapes["conv1.weight"]
        depth = len({key.split(".")[2] for key in shapes if key.startswith("transformer.resblocks.")})
        raise OptionError(
            f"{path}: an encoder of {depth} blocks, width {width} and patches of {patch}, which is not one of "
            "the released encoders; give the folder or a checkpoint of the run that trained it"
        )
    return names[0]


def require_weights(source: str | None, option: str, remedy: str = "") -> None:
    """Find or fetch weights before anything else is begun.

    Args:
        source: A name or a file; None needs nothing.
        option: Whose value it is, such as `weights`.
        remedy: What else can be done, to stand at the end.

    Raises:
        UserError: They are not here and cannot be fetched.
    """
    try:
        if source is not None:
            find(source)
    except FileNotFoundError as error:
        raise UserError(f"{error}: {option}=FILE (--{option} FILE){remedy}") from error
