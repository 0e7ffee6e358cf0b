"""Checkpoints of PLM in both layouts: where the vision tower and the projector are, and what sizes they have."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from pe_spatial.backbones import VARIANTS, EncoderConfig
from pe_spatial.backbones.weights import Checkpoint, find, read_encoder
from pe_spatial.backbones.weights.loading import check_values, fitting_variants
from pe_spatial.common.errors import few
from pe_spatial.common.tensors import Misfit, Shapes, WeightsError, shapes_of
from pe_spatial.plm.projector import VisionProjector
from pe_spatial.plm.sizes import Sizes, read_sizes

# what the layers of the projector are called: Meta's checkpoints, then those of transformers
_PROJECTORS = (
    ("vision_projector.projector.", {"0": "linear_1", "2": "linear_2"}),
    ("multi_modal_projector.", {"linear_1": "linear_1", "linear_2": "linear_2"}),
)
_NEEDED = "PLMVision takes a whole checkpoint of PLM, such as facebook/Perception-LM-1B"


@dataclass(frozen=True)
class PLMCheckpoint:
    """What a checkpoint of PLM holds for the vision half.

    Attributes:
        path: The file or the index.
        encoder: The encoder that the tensors are of.
        projector: State dict of a `VisionProjector`.
        dim: Channels of the language model.
        sizes: What the JSON file beside it says.
    """

    path: Path
    encoder: EncoderConfig
    projector: dict[str, Tensor]
    dim: int
    sizes: Sizes


def read_checkpoint(
    source: str | PathLike[str], config: str | PathLike[str] | None = None, heads: int | None = None
) -> PLMCheckpoint:
    """Read what a checkpoint of PLM says of its vision half; of shards only those that hold a part of it.

    Args:
        source: The folder, the file or the index.
        config: See `read_sizes`.
        heads: Attention heads of the encoder, in place of what the JSON file says.

    Raises:
        FileNotFoundError: Nothing is there.
        WeightsError: It holds no vision tower, or no projector, or one that is no PLM's; or the JSON file contradicts
            it.
    """
    _require_checkpoint(source)
    path = find(Path(source))
    projector = _read_projector(path)
    tensors, report = read_encoder(path)
    if any(key.startswith(("attn_pool.", "proj")) for key in tensors):
        raise WeightsError(
            f"{path}: the vision tower ({report.layout}) pools its tokens to one, like a PE-Core; the tower of a PLM "
            f"does not. {_NEEDED}"
        )
    sizes = read_sizes(path.parent, None if config is None else Path(config))
    encoder = _describe_encoder(path, shapes_of(tensors), sizes.heads if heads is None else heads)
    sizes.check(encoder)
    dim, width = projector["linear_1.weight"].shape
    if width != encoder.width:
        raise WeightsError(
            f"{path}: the projector takes {width} channels and the vision tower has {encoder.width}: they belong to "
            "different models; download the checkpoint again"
        )
    return PLMCheckpoint(path, encoder, projector, dim, sizes)


def _require_checkpoint(source: str | PathLike[str]) -> None:
    """Refuse the name of an encoder, for which nothing is to be fetched, and an address of the hub."""
    if source in VARIANTS:
        raise WeightsError(f"{source} is an encoder without the projector to a language model; {_NEEDED}")
    if str(source).startswith("hf:/"):  # pathlib makes one slash of two
        name = str(source).partition(":")[2].lstrip("/")
        raise WeightsError(
            f"{source} is not downloaded automatically; run `hf download {name} --local-dir FOLDER` and give that "
            "folder. Of shards only those with the vision tower and the projector are needed"
        )


def _read_projector(path: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(path)
    names = _projector_names(path, checkpoint.keys)
    state = {names[key]: tensor for key, tensor in checkpoint.read(names).items()}
    expected = _expected_shapes(state)
    if shapes_of(state) != expected:
        raise WeightsError(f"{path}: the projector does not fit: {Misfit(shapes_of(state), expected)}. {_NEEDED}")
    check_values(path, state)
    return state


def _projector_names(path: Path, keys: Collection[str]) -> dict[str, str]:
    """Our names of the projector's tensors by those of the file."""
    names, places = {}, set()
    for root, layers in _PROJECTORS:
        for key in keys:
            before, separator, rest = f".{key}".partition(f".{root}")
            if separator:
                layer, _, leaf = rest.partition(".")
                names[key] = f"{layers.get(layer, layer)}.{leaf}"
                places.add(f"{before[1:]}.{root}".strip("."))
    if len(places) > 1:
        raise WeightsError(
            f"{path} holds {len(places)} projectors, under {few(sorted(places))}; save one of them alone"
        )
    if not names:
        has_tower = any(key.endswith(("conv1.weight", "patch_embed.proj.weight")) for key in keys)
        what = "an encoder, but no projector to a language model" if has_tower else "no projector to a language model"
        raise WeightsError(f"{path} holds {what} (first of {len(keys)} tensors: {few(keys) or 'none'}). {_NEEDED}")
    return names


def _expected_shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Of a projector whose first layer has the shape that is found, or of any where it has none."""
    first = state.get("linear_1.weight")
    dim, width = first.shape if first is not None and first.ndim == 2 and first.numel() else (1, 1)
    with torch.device("meta"):
        return shapes_of(VisionProjector(width, dim).state_dict())


def _describe_encoder(path: Path, shapes: Shapes, heads: int | None) -> EncoderConfig:
    """The encoder of these tensors; loading compares all of them with it.

    Raises:
        WeightsError: A tensor that shows a size is missing or has no such shape, or nothing says the number of heads.
    """
    patches, table = (shapes.get(key, torch.Size()) for key in ("conv1.weight", "positional_embedding"))
    hidden = shapes.get("transformer.resblocks.0.mlp.c_fc.weight", torch.Size())
    cls_token = "class_embedding" in shapes
    if len(patches) != 4 or len(table) != 2 or len(hidden) != 2 or min(*patches, *hidden) < 1:
        raise WeightsError(
            f"{path}: the vision tower is incomplete (patches {list(patches)}, positions {list(table)}, MLP "
            f"{list(hidden)}); download it again"
        )
    side = math.isqrt(max(table[0] - cls_token, 0))
    if not side or side * side + cls_token != table[0]:
        raise WeightsError(
            f"{path}: {table[0]} positions of the vision tower do not form a square grid; download it again"
        )
    if heads is None:
        fitting = fitting_variants(shapes)
        if not fitting:
            raise WeightsError(
                f"{path}: the number of attention heads of its vision tower (width {patches[0]}) is not known, and it "
                "is not a released one; put its config.json or params.json beside it, or pass heads"
            )
        heads = VARIANTS[fitting[0]].heads
    return EncoderConfig(
        f"the vision tower of {path.name}",
        patch_size=patches[-1],
        width=patches[0],
        depth=len({key.split(".")[2] for key in shapes if key.startswith("transformer.resblocks.")}),
        heads=heads,
        mlp_ratio=_ratio(hidden[0], patches[0]),
        image_size=side * patches[-1],
        cls_token=cls_token,
        layer_scale=0.1 if "transformer.resblocks.0.ls_1.gamma" in shapes else None,
        ln_post="ln_post.weight" in shapes,
    )


def _ratio(hidden: int, width: int) -> float:
    """The `mlp_ratio` that gives so many hidden channels, though it is truncated."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
