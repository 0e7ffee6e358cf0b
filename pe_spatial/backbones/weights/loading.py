"""Load encoder weights strictly, without a second copy, and say what was done."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.backbones.lora import is_adapter
from pe_spatial.backbones.variants import VARIANTS, EncoderConfig
from pe_spatial.backbones.vit import VisionTransformer, resize_positions
from pe_spatial.backbones.weights.content import Checkpoint
from pe_spatial.backbones.weights.layouts import Layout, recognize, to_official
from pe_spatial.backbones.weights.source import find
from pe_spatial.common.errors import few
from pe_spatial.common.integrity import content_hash
from pe_spatial.common.tensors import Misfit, Shapes, WeightsError, require_finite, shapes_of


@dataclass
class WeightsReport:
    """What was loaded, from where, and what was done to it.

    Args:
        path: The file, or the index of several.
        layout: The layout that was found in it.
        tensors: Number of tensors of the encoder.
        parameters: Number of their elements.
        dtype: Their type, or types with counts.
        ignored: Keys of the file that were not used, each with the reason.
        conversions: What was changed, in order.
        files: How many files were read and how many there are, as text; empty for a single one.
    """

    path: Path
    layout: Layout
    tensors: int = 0
    parameters: int = 0
    dtype: str = ""
    ignored: dict[str, str] = field(default_factory=dict)
    conversions: list[str] = field(default_factory=list)
    files: str = ""

    def __str__(self) -> str:
        origin = f"{self.layout}, {self.files}" if self.files else str(self.layout)
        text = f"{self.tensors} tensors, {self.parameters:,} parameters ({self.dtype}) from {self.path} ({origin})."
        if self.conversions:
            text += f" Converted: {'; '.join(self.conversions)}."
        if self.ignored:
            text += f" Ignored: {'; '.join(_by_reason(self.ignored))}."
        return text


def _by_reason(ignored: Mapping[str, str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for key, reason in ignored.items():
        groups.setdefault(reason, []).append(key)
    return [f"{_count(keys, 'tensor')} ({reason}: {few(keys, 2)})" for reason, keys in groups.items()]


def load_weights(module: VisionTransformer, source: str | Path, adapt: Sequence[str] = ()) -> WeightsReport:
    """Put weights into an encoder, in its own dtype.

    On the CPU or on the meta device the encoder takes over the views of the mapped file, so no second copy exists;
    build its optimizer afterwards. On an accelerator the values are copied into the parameters. `requires_grad` stays
    as it is.

    Args:
        module: The encoder, on any device.
        source: See `find`.
        adapt: See `load_state_dict`.

    Raises:
        FileNotFoundError: See `find`.
        WeightsError: See `load_state_dict`.
    """
    parameter = next(module.parameters())
    state, report = load_state_dict(source, module.config, dtype=parameter.dtype, adapt=adapt)
    module.load_state_dict(state, strict=True, assign=parameter.device.type in ("cpu", "meta"))
    return report


def load_state_dict(
    source: str | Path, config: EncoderConfig, dtype: torch.dtype | None = None, adapt: Sequence[str] = ()
) -> tuple[dict[str, Tensor], WeightsReport]:
    """Return the weights of an encoder in the official layout, in the order of the model, checked against `config`.

    The tensors are views of the mapped file, except those that the report names as converted and the head of a timm
    file, which splits it differently. Two differences between file and `config` are bridged, and reported: a patch
    embedding of another patch size over the same position grid is resized by plain bicubic interpolation (as for the
    official detectors, 14 to 16), and the parts of PE-Core's head (ln_post, attn_pool, proj) that follow the last one
    that `config` has are left out.

    Args:
        source: See `find`.
        config: The encoder to fill.
        dtype: Type to cast to; None keeps that of the file.
        adapt: Differences that are bridged only where they are named: `layer_scale`, a file without LayerScale for an
            encoder with it, whose factors begin at `config.layer_scale`; `positions`, a position table of another
            square grid, which is resized bicubically.

    Raises:
        FileNotFoundError: See `find`.
        WeightsError: The file cannot be read, holds no encoder or another one, or holds NaN or Inf.
    """
    for name in adapt:
        if name not in _ADAPTATIONS:
            raise WeightsError(f"adapt: {name!r} is not one of {', '.join(_ADAPTATIONS)}")
    path = find(source)
    found, report = read_encoder(path)
    _leave_out_head(found, config, report)
    for name in adapt:
        _ADAPTATIONS[name](found, config, report)
    _resize_patches(found, config, report)
    expected = expected_shapes(config)
    shapes = shapes_of(found)
    if shapes != expected:
        misfit = Misfit(shapes, expected)
        remedy = _remedy(config, shapes) + _remedy_by_adapting(misfit)
        raise WeightsError(f"{path} does not fit {config.name}: {misfit}. {remedy}")
    check_values(path, found)
    state = {key: found[key] for key in expected}
    if dtype is not None:
        state = cast(state, dtype, report)
    report.tensors = len(state)
    report.parameters = sum(tensor.numel() for tensor in state.values())
    report.dtype = dtypes_of(state)
    return state, report


@dataclass(frozen=True)
class Origin:
    """Where the weights of an encoder can be found again, and how they are recognized.

    Args:
        source: The official name or the file.
        file_hash: Of the encoder in the file, whatever the layout, before anything was converted: what is resized may
            differ in the last bit on another machine.
        loaded_hash: Of the encoder's state dict after loading.
    """

    source: str
    file_hash: str
    loaded_hash: str


def origin_of(source: str | Path, loaded: Mapping[str, Tensor]) -> Origin:
    """The origin of weights that were just loaded.

    Args:
        source: See `find`.
        loaded: The state dict of the encoder.
    """
    return Origin(str(source), content_hash(read_encoder(find(source))[0]), content_hash(loaded))


def refuse_adapters(path: Path, keys: Iterable[str]) -> None:
    """Refuse a file in which a part of what an encoder has learned is in adapters.

    Raises:
        WeightsError: There are adapters among its tensors.
    """
    if any(map(is_adapter, keys)):
        raise WeightsError(
            f"{path} contains LoRA adapters beside the weights; merge them first, and use the merged file: "
            f"{merge_command(path)}"
        )


def merge_command(path: str | Path) -> str:
    """The command that turns a checkpoint with adapters into one without."""
    return f"pe-spatial convert --input {path} --output merged.pth --to pe_spatial --merge"


def read_encoder(path: Path) -> tuple[dict[str, Tensor], WeightsReport]:
    """Return what a file holds of an encoder, named as in the official layout but not checked against any.

    Args:
        path: The file; or an index of several, of which those with a part of the encoder are read and no others.

    Raises:
        WeightsError: The file cannot be read, holds no encoder, or holds adapters that are not merged.
    """
    checkpoint = Checkpoint(path)
    refuse_adapters(path, checkpoint.keys)
    with _naming(path):
        layout = recognize(checkpoint.keys, checkpoint.container)
    tensors = checkpoint.read(key for key in checkpoint.keys if key.startswith(layout.prefix))
    with _naming(path):
        encoder, ignored = to_official(tensors, layout)
    ignored |= {key: layout.outside for key in checkpoint.keys if key not in tensors}
    files = checkpoint.count_files(tensors)
    return encoder, WeightsReport(path, layout, ignored=ignored, conversions=layout.conversions, files=files)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


@cache
def expected_shapes(config: EncoderConfig) -> Shapes:
    """Keys and shapes of an encoder, in the order of its state dict; nothing is allocated."""
    with torch.device("meta"):
        return shapes_of(VisionTransformer(config).state_dict())


def fitting_variants(shapes: Shapes) -> list[str]:
    """Names of the released encoders with these keys and shapes, at any patch size: loading can bridge that."""
    return [name for name, config in VARIANTS.items() if _any_patch(expected_shapes(config)) == _any_patch(shapes)]


def _any_patch(shapes: Shapes) -> dict[str, torch.Size]:
    return {key: shape[:2] if key == "conv1.weight" else shape for key, shape in shapes.items()}


def _leave_out_head(state: dict[str, Tensor], config: EncoderConfig, report: WeightsReport) -> None:
    """Drop what comes after the last part of the head that the target has: pooling without its norm would be wrong."""
    head = {"ln_post.": config.ln_post, "attn_pool.": config.attn_pool, "proj": config.output_dim is not None}
    for part, wanted in reversed(head.items()):
        if wanted:
            break
        for key in [key for key in state if key.startswith(part)]:
            report.ignored[report.layout.prefix + key] = f"head that {config.name} does not have"
            del state[key]


def _add_layer_scale(state: dict[str, Tensor], config: EncoderConfig, report: WeightsReport) -> None:
    missing = [key for key in expected_shapes(config) if key.endswith(".gamma") and key not in state]
    if config.layer_scale is None or not missing or any(key.endswith(".gamma") for key in state):
        return
    like = next(iter(state.values()))
    for key in missing:
        state[key] = torch.full((config.width,), config.layer_scale, dtype=like.dtype)
    report.conversions.append(f"LayerScale added, {_count(missing, 'tensor')} of {config.layer_scale:g}")


def _resize_table(state: dict[str, Tensor], config: EncoderConfig, report: WeightsReport) -> None:
    table, first = state.get("positional_embedding"), int(config.cls_token)
    if table is None or table.ndim != 2 or table.shape == expected_shapes(config)["positional_embedding"]:
        return
    side = math.isqrt(len(table) - first)
    if side * side != len(table) - first:
        return  # no square grid: the strict check names the difference
    grid = (config.grid_size, config.grid_size)
    resized = resize_positions(table[first:], side, grid, "bicubic")
    state["positional_embedding"] = torch.cat((table[:first], resized))
    report.conversions.append(f"position table resized bicubically from {side}x{side} to {grid[0]}x{grid[1]}")


_ADAPTATIONS = {"layer_scale": _add_layer_scale, "positions": _resize_table}


def _resize_patches(state: dict[str, Tensor], config: EncoderConfig, report: WeightsReport) -> None:
    weight, table = state.get("conv1.weight"), state.get("positional_embedding")
    size = config.patch_size
    expected = expected_shapes(config)
    if weight is None or weight.ndim != 4 or tuple(weight.shape[2:]) == (size, size):
        return
    if table is None or table.shape != expected["positional_embedding"]:
        return  # another grid is another encoder: the strict check names it
    resized = F.interpolate(weight.float(), (size, size), mode="bicubic", align_corners=False)
    state["conv1.weight"] = resized.to(weight.dtype)
    old = "x".join(str(side) for side in weight.shape[2:])
    report.conversions.append(f"patch embedding resized bicubically from {old} to {size}x{size} pixels")


def check_values(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite floating-point numbers; one pass over each tensor, nothing is allocated.

    Raises:
        WeightsError: The tensors that are broken.
    """
    integers = [key for key, tensor in state.items() if not tensor.is_floating_point()]
    if integers:
        dtypes = ", ".join(sorted({str(state[key].dtype).removeprefix("torch.") for key in integers}))
        raise WeightsError(
            f"{path}: {_count(integers, 'tensor')} of {dtypes}, not floating-point numbers ({few(integers)}); "
            "quantized weights cannot be loaded, export them as float32, bfloat16 or float16"
        )
    require_finite(path, state)


def cast(state: dict[str, Tensor], dtype: torch.dtype, report: WeightsReport) -> dict[str, Tensor]:
    """The tensors in one type; the report says of which others they were."""
    others = {key: tensor for key, tensor in state.items() if tensor.dtype != dtype}
    if others:
        name = str(dtype).removeprefix("torch.")
        report.conversions.append(f"{_count(list(others), 'tensor')} cast from {dtypes_of(others)} to {name}")
    return {key: tensor.to(dtype) for key, tensor in state.items()}


def dtypes_of(state: Mapping[str, Tensor]) -> str:
    """The type of tensors as text, or the types with counts."""
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{count} {name}" for name, count in counts.items())


def _remedy_by_adapting(misfit: Misfit) -> str:
    """What else to do where nothing but what can be adapted differs; else empty."""
    if misfit.unexpected or not all(key.endswith(".gamma") for key in misfit.missing):
        return ""
    if not set(misfit.reshaped) <= {"positional_embedding", "conv1.weight"}:
        return ""
    names = ["layer_scale"] * bool(misfit.missing) + ["positions"] * ("positional_embedding" in misfit.reshaped)
    return f". To train it further in the new shape, set adapt: [{', '.join(names)}]" if names else ""


def _remedy(config: EncoderConfig, shapes: Shapes) -> str:
    names = fitting_variants(shapes)
    if names:
        return f"The shapes fit {' or '.join(names)}: use that variant, or the weights of {config.name}"
    return (
        f"The file holds an encoder with {_describe(shapes)}; {config.name} has {_describe(expected_shapes(config))}. "
        "Take the weights of that encoder, or describe your own encoder to match the file"
    )


def _describe(shapes: Shapes) -> str:
    blocks = {key.split(".")[2] for key in shapes if key.startswith("transformer.resblocks.")}
    patches, table = shapes.get("conv1.weight"), shapes.get("positional_embedding")
    parts = [f"{len(blocks)} blocks"]
    if patches is not None and len(patches) == 4:
        parts += [f"width {patches[0]}", f"patch {patches[-1]}"]
    if table is not None and len(table) == 2:
        parts.append(f"{table[0]} positions")
    parts += [word for word, key in _PARTS.items() if key in shapes]
    return ", ".join(parts)


_PARTS = {
    "a class token": "class_embedding",
    "LayerScale": "transformer.resblocks.0.ls_1.gamma",
    "a final norm": "ln_post.weight",
    "attention pooling": "attn_pool.probe",
    "a projection": "proj",
}


def _count(keys: list[str], noun: str) -> str:
    return f"{len(keys)} {noun}{'' if len(keys) == 1 else 's'}"
