"""A PE-Core of any shape as a folder, and the one way from what `--encoder` says to a model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pe_spatial.backbones.text.core import PECore, text_of
from pe_spatial.backbones.variants import VARIANTS
from pe_spatial.backbones.weights.source import find
from pe_spatial.common.devices import choose_device
from pe_spatial.common.errors import ConfigError, OptionError, UnknownName, UnreadableFile, suggest
from pe_spatial.common.files import write_json
from pe_spatial.common.reading import read_json
from pe_spatial.common.records import fingerprint
from pe_spatial.common.tensors import write_tensor_file

SHAPE_FILE = "pe_core.json"
WEIGHTS_FILE = "pe_core.safetensors"
RANDOM = "none"  # weights that are drawn


def save_core(model: PECore, folder: Path) -> None:
    """Write a model so that `open_core` finds it: its shape, and then its weights in the official layout.

    Args:
        model: Of any shape.
        folder: Made where it is missing; the two files in it are replaced.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SHAPE_FILE, asdict(model.config))
    write_tensor_file(model.state_dict(), folder / WEIGHTS_FILE)


def open_core(
    encoder: str | Path, weights: str | Path | None = None, device: str | torch.device | None = None
) -> PECore:
    """A PE-Core in evaluation mode.

    Args:
        encoder: The name of a released PE-Core, or a folder that `save_core` has written.
        weights: Others than those of that name or folder, see `find`; "none" draws random ones.
        device: E.g. "cuda:1"; None takes CUDA if it is there.

    Raises:
        UnknownName: There is no such encoder.
        OptionError: The encoder has no text tower.
        FileNotFoundError: There are no weights.
        WeightsError: The weights do not fit.
        UnreadableFile: The folder does not say what its model is.
    """
    shape = shape_of(encoder)
    source = source_of(encoder, weights)
    try:
        return PECore(shape, weights=source).to(choose_device(device))
    except (UnknownName, ConfigError, OptionError, TypeError) as error:
        if isinstance(shape, str):
            raise
        raise UnreadableFile(f"{Path(encoder) / SHAPE_FILE} does not describe a PE-Core: {error}") from error


def is_core_folder(path: str | Path) -> bool:
    """Whether `save_core` has written a model into this folder."""
    return (Path(path).expanduser() / SHAPE_FILE).is_file()


def fingerprint_of(source: str | None) -> str:
    """What tells the weights of `source_of`, or of any encoder, from others; "none" for random ones.

    Raises:
        FileNotFoundError: There are no such weights.
    """
    return RANDOM if source is None else fingerprint(find(source))


def shape_of(encoder: str | Path) -> str | dict[str, Any]:
    """What `PECore` takes as `variant`: the name of a released one, or what a folder says of its own.

    Raises:
        UnknownName: There is no such encoder.
        UnreadableFile: The file that describes it is damaged.
    """
    if str(encoder) in VARIANTS:
        return str(encoder)
    source_of(encoder)
    return read_json(Path(encoder).expanduser() / SHAPE_FILE, {"name": str})


def source_of(encoder: str | Path, weights: str | Path | None = None) -> str | None:
    """The name or the file of the weights that `open_core` takes; None for random ones.

    Raises:
        UnknownName: There is no such encoder.
        OptionError: It has no text tower; that is said before any weights are fetched.
    """
    folder = Path(encoder).expanduser()
    if str(encoder) in VARIANTS:
        text_of(VARIANTS[str(encoder)])
    elif not is_core_folder(folder):
        raise UnknownName(
            f"there is no encoder {str(encoder)!r}, and no folder of that name with a {SHAPE_FILE}; "
            f"{suggest(str(encoder), [name for name, row in VARIANTS.items() if row.text])}"
        )
    if weights == RANDOM:
        return None
    return str(weights or (encoder if str(encoder) in VARIANTS else folder / WEIGHTS_FILE))
