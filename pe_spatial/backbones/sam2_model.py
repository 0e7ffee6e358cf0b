"""SAM 2.1 from the package `sam2` (an extra: `pip install sam2==1.1.0`), which is imported when a model is built."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from pe_spatial.backbones.weights import FOLDER_VARIABLE
from pe_spatial.backbones.weights.source import local_copy, suggested_folder
from pe_spatial.common.errors import MissingPackage, OptionError, require_choice
from pe_spatial.common.tensors import read_tensor_file, require_finite

SAM2_SIZES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
_RELEASE = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"


def find_sam2_weights(size: str, weights: str | Path | None = None) -> Path:
    """The checkpoint of one size of SAM 2.1.

    Args:
        size: One of `SAM2_SIZES`.
        weights: A file; None looks into the folder that the environment variable PE_SPATIAL_WEIGHTS names.

    Raises:
        OptionError: The size is not known.
        FileNotFoundError: There is no such file; says what to fetch and where to put it.
    """
    require_choice("size of SAM 2.1", size, SAM2_SIZES)
    name = f"sam2.1_hiera_{size}"
    path = Path(weights).expanduser() if weights else local_copy(name)
    if path is not None and path.is_file():
        return path
    looked = f"at {path}" if path else f"in the folder {FOLDER_VARIABLE} ({os.environ.get(FOLDER_VARIABLE, 'unset')})"
    raise FileNotFoundError(
        f"no SAM 2.1 weights {looked}; fetch {_RELEASE}/{name}.pt and put it into {suggested_folder()} or give its "
        "path. To try the code without weights, set weights='random'"
    )


def build_sam2(size: str, weights: str | Path | None, image_size: int = 1024) -> Any:
    """SAM 2.1 in evaluation mode on the CPU.

    Hydra, which its package configures itself with, keeps its global state: nothing else that uses Hydra is disturbed.

    Args:
        size: One of `SAM2_SIZES`.
        weights: A checkpoint of that size; None draws random weights from torch's global generator.
        image_size: Side of the square images that it takes, a multiple of 32; other values than 1024 are for tests.

    Raises:
        ModuleNotFoundError: `sam2` is not installed.
        OptionError: The size is not known, or the checkpoint is of another one.
    """
    require_choice("size of SAM 2.1", size, SAM2_SIZES)
    if image_size < 64 or image_size % 32:
        raise OptionError(
            f"image_size {image_size} of SAM 2 must be a multiple of 32 and at least 64; it was trained at 1024"
        )
    try:
        from hydra.utils import instantiate
        from omegaconf import OmegaConf
        from sam2.modeling import sam2_base  # noqa: F401 - instantiate would hide which package is missing
    except ModuleNotFoundError as error:
        raise MissingPackage(f"SAM 2 needs {error.name}, which is not installed; pip install sam2==1.1.0") from error
    config = OmegaConf.load(str(files("sam2") / f"configs/sam2.1/sam2.1_hiera_{SAM2_SIZES[size]}.yaml"))
    config.model.image_size = image_size
    model = instantiate(config.model, _recursive_=True)
    if weights is not None:
        content = read_tensor_file(Path(weights))
        state = content.get("model", content)
        require_finite(Path(weights), state)
        try:
            model.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            raise OptionError(
                f"{weights} does not contain SAM 2.1 {size}: {str(error).splitlines()[-1].strip()[:160]}; give the "
                f"size of this file, one of {', '.join(SAM2_SIZES)}"
            ) from error
    return model.eval()
