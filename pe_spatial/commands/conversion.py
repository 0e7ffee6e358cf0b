"""What `pe-spatial convert` does: read weights of any layout, and write them in another."""

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

from pe_spatial.backbones import EncoderConfig, get_variant
from pe_spatial.backbones.weights import Checkpoint, find, load_state_dict, read_encoder, refuse_adapters, to_timm
from pe_spatial.backbones.weights import to_detectron2 as encoder_to_detectron2
from pe_spatial.backbones.weights.loading import check_values, fitting_variants
from pe_spatial.commands.convert import LAYOUTS
from pe_spatial.commands.options import encoder_weights
from pe_spatial.common.tensors import SUFFIXES, WeightsError, write_tensor_file
from pe_spatial.common.trees import sections
from pe_spatial.data.formats import open_source
from pe_spatial.detection.conversion import RotaryGeometry, from_detectron2, is_detectron2, is_ours, to_detectron2
from pe_spatial.detection.deta.conversion import from_authors, is_deta
from pe_spatial.inference.predictor import Predictor
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import compare_keys, describe
from pe_spatial.training.config import load_config
from pe_spatial.training.frozen_encoders import adapted_backbones

Tensors = dict[str, Tensor]
Converted = tuple[Tensors, list[str]]  # what is to be written, and the lines of the report


def convert(options: argparse.Namespace) -> list[str]:
    """Convert a file of weights.

    Args:
        options: Those of `pe-spatial convert`.

    Returns:
        What to say about it, line by line.

    Raises:
        WeightsError: The input cannot be converted, or the output is refused.
    """
    target: Path = options.output
    check_target(options)
    described: dict[str, Any] | None = None
    if options.merge:
        tensors, described, notes = merged(options)
    else:
        tensors, notes = converted(find(options.input), options)
        described = description(options, tensors) if options.config else None
    if described:
        save_checkpoint({"meta": {}, "state_dict": tensors, "pe_spatial": described}, target)
    else:
        write_tensor_file(tensors, target, LAYOUTS[options.to])
    size = target.stat().st_size
    return [*notes, f"Wrote {len(tensors)} tensors in the {options.to} layout to {target} ({size:,} bytes)."]


def check_target(options: argparse.Namespace) -> None:
    """Refuse an output of another format than its suffix, one that exists, or one without a folder.

    Raises:
        WeightsError: The suffix does not fit, or the file exists.
        FileNotFoundError: There is no such folder.
    """
    target = options.output
    if target.suffix not in SUFFIXES:
        raise WeightsError(f"{target} must end in {', '.join(SUFFIXES)}: the suffix is the format")
    for name in ("config", "merge"):
        if getattr(options, name) and (options.to != "pe_spatial" or target.suffix == ".safetensors"):
            raise WeightsError(f"--{name} needs --to pe_spatial and a .pt or .pth file; remove it or change them")
    if options.merge and (options.config or options.variant or options.patch_size):
        raise WeightsError(
            "--merge keeps the config and the encoder of the checkpoint; remove --config, --variant and --patch-size"
        )
    if options.weights and not options.merge:
        raise WeightsError("--weights is only for --merge, where it gives the file of the encoder; remove it")
    if target.exists() and not options.force:
        raise WeightsError(f"{target} exists; pass --force to overwrite it, or choose another name")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist; create it first")


def merged(options: argparse.Namespace) -> tuple[Tensors, dict[str, Any], list[str]]:
    """The weights of a checkpoint of ours with its adapters merged, what describes it, and the lines of the report.

    Raises:
        CheckpointError: It is none of ours, or its encoder is missing or another one.
        WeightsError: It has no adapters.
    """
    predictor = Predictor(options.input, device="cpu", overrides=encoder_weights(options))
    if not any(adapted_backbones(predictor.model)):
        raise WeightsError(f"{predictor.checkpoint} has no LoRA adapters to merge; use it as it is")
    tensors, config = merge(predictor)
    described = describe(config, predictor.metainfo)
    return in_dtype(tensors, options), described, [f"Merged the adapters of {predictor.checkpoint}."]


def merge(predictor: Predictor) -> tuple[Tensors, dict[str, Any]]:
    """Put the adapters of a predictor's model, if it has any, into its encoder; all weights, and the config without."""
    for _, backbone in adapted_backbones(predictor.model):
        backbone.merge_adapters()
    config = predictor.config.to_dict()
    for part in sections(config["model"]):
        if part.pop("lora", None) is not None:
            part["weights"] = None
    return predictor.model.state_dict(), config


def in_dtype(tensors: Mapping[str, Tensor], options: argparse.Namespace) -> Tensors:
    """Tensors of the type that is asked for."""
    dtype = getattr(torch, options.dtype) if options.dtype else None
    return {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def converted(source: Path, options: argparse.Namespace) -> Converted:
    """Return what is to be written, and the lines of the report."""
    checkpoint = Checkpoint(source)
    refuse_adapters(source, checkpoint.keys)
    keys = list(checkpoint.keys)
    labels: list[str] = []
    if options.to == "pe_spatial" and not is_deta(keys) and not is_detectron2(keys):
        raise WeightsError(
            f"{source} is neither a Mask R-CNN of Detectron2 (no key begins with `proposal_generator.`) nor a DETA of "
            "its authors (no `transformer.level_embed`), and only these can be converted to pe_spatial; "
            "PEBackbone(weights=...) loads an encoder as it is"
        )
    if options.to != "pe_spatial" and not (options.to == "detectron2" and is_ours(keys)):
        return convert_encoder(source, options)
    if options.patch_size:
        raise WeightsError("--patch-size applies to encoders; a detector keeps the patch size that it was trained with")
    tensors = checkpoint.read(keys)
    check_values(source, tensors)
    if options.to == "detectron2":
        config = encoder_config(source, options)
        geometry = RotaryGeometry(config.head_dim, options.image_size, options.window, tuple(options.global_blocks))
        result, dropped = to_detectron2(tensors, geometry)
    elif is_deta(keys):
        category_ids = stated_classes(load_config(options.config)).get("category_ids") if options.config else None
        result, dropped = from_authors(tensors, category_ids)
        labels = [
            "Labels are category ids; with --config they are those of the dataset."
            if category_ids is None
            else f"Of every class head, the columns of the {len(category_ids)} categories were kept."
        ]
    else:
        result, dropped = from_detectron2(tensors, has_class_token(options))
    result = in_dtype(result, options)
    kind = "DETA" if labels else "Mask R-CNN"
    return result, [f"Read a {kind} of {len(tensors)} tensors from {source}.", *summarize(dropped), *labels]


def convert_encoder(source: Path, options: argparse.Namespace) -> Converted:
    """The tensors of an encoder in the layout that is asked for."""
    config = encoder_config(source, options)
    state, report = load_state_dict(source, config, getattr(torch, options.dtype) if options.dtype else None)
    notes = [f"Read {config.name}: {report}"]
    if options.to == "timm":
        state = to_timm(state)
    elif options.to == "detectron2":
        state, dropped = encoder_to_detectron2(state)
        notes += summarize(dropped)
    return state, notes


def has_class_token(options: argparse.Namespace) -> bool:
    """Whether the encoder of the detector that is to be written has a class token; G, the default, has none."""
    if options.config:
        return get_variant(load_config(options.config).model.backbone.variant).cls_token
    return bool(options.variant) and named_variant(options.variant).cls_token


def description(options: argparse.Namespace, tensors: Tensors) -> dict[str, Any]:
    """What lets a checkpoint do without its config file; checks first that the config's model has these tensors."""
    config = load_config(options.config)
    config.model.backbone.weights = None  # they come from the checkpoint
    with torch.device("meta"):
        differences = compare_keys(MODELS.build(config.model), tensors)
    if differences:
        raise WeightsError(
            f"{options.input} does not fit the model of {options.config}: {differences}; give the config that it was "
            f"trained with"
        )
    return describe(config.to_dict(), stated_classes(config))


def stated_classes(config: Config) -> Mapping[str, Any]:
    """`classes` and, if known, `category_ids` of the training data of a config."""
    dataset = config.get("train_dataloader", {}).get("dataset", {})
    stated = dataset.get("metainfo", {})
    return stated if "classes" in stated else known_classes(config, dataset)


def known_classes(config: Config, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Names and ids of a detector's classes, from the annotation file of its config or, for COCO, from torchvision."""
    path = Path(dataset.get("data_root") or "", dataset.get("ann_file") or "")
    if path.is_file() or (path.is_dir() and "ann_file" in dataset):
        table = open_source(path, dataset.get("split"), dataset.get("format")).table
        rows = [(category["id"], category["name"]) for category in table.categories]
    else:
        named = enumerate(MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"])  # the place is COCO's id
        rows = [(number, name) for number, name in named if name not in ("__background__", "N/A")]
    if len(rows) != config.model.num_classes:
        raise WeightsError(
            f"{path}: no annotation file with the {config.model.num_classes} classes of {config.filename}; the "
            "names of the classes come from it; the first lines of the dataset's config say where the file must be"
        )
    return {"classes": [name for _, name in rows], "category_ids": [number for number, _ in rows]}


def encoder_config(source: Path, options: argparse.Namespace) -> EncoderConfig:
    """The encoder that the user named, or the one that the shapes fit; with the patch size that is wanted."""
    state, _ = read_encoder(source)
    if options.variant:
        config = named_variant(options.variant)
    else:
        names = fitting_variants({key: tensor.shape for key, tensor in state.items()})
        if not names:
            raise WeightsError(
                f"the shapes in {source} do not fit any released encoder; describe the encoder, for example --variant "
                '\'{"base": "PE-Spatial-T16-512", "width": 128, "depth": 4, "heads": 4, "image_size": 128}\''
            )
        config = get_variant(names[0])
    patch = options.patch_size or state["conv1.weight"].shape[-1]
    return replace(config, patch_size=patch, image_size=patch * config.grid_size)


def named_variant(text: str) -> EncoderConfig:
    """The encoder of --variant: a name, or fields as JSON."""
    try:
        return get_variant(json.loads(text) if text.startswith("{") else text)
    except json.JSONDecodeError as error:
        raise WeightsError(f"--variant {text!r} is not JSON ({error}); quote it for the shell in '...'") from error


def summarize(dropped: Mapping[str, str]) -> list[str]:
    """A line for each reason for which tensors were dropped."""
    return [f"Dropped {count} tensors: {reason}." for reason, count in Counter(dropped.values()).items()]
