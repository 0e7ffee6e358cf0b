"""The options with which `pe-spatial predict` finds classes in words, without training, and what they stand for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_spatial.commands.encoder_options import NONE, add_core, add_templates
from pe_spatial.commands.options import number_in
from pe_spatial.common.errors import OptionError

if TYPE_CHECKING:
    from pe_spatial.backbones.text import Prompts
    from pe_spatial.inference.predictor import Recipe

BACKGROUND = "background"
# those that say nothing without --words, with what they are then
DEFAULTS: dict[str, Any] = {"encoder": None, "weights": None, "templates": NONE, "affinity": None}
DEFAULTS |= {"affinity_weights": None, "beta": 1.2, "gamma": 3.0, "background": None, "background_threshold": None}
# shares of the side that the encoder was trained with: pictures are a third larger than the window, which moves by
# half of its side, as in DINOv3's protocol (512, 384, 192)
_SHORT_SIDE, _STRIDE = 4 / 3, 1 / 2
_LONGEST = 4096  # pixels of the longer side of thin pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options, which all belong to --words."""
    group = parser.add_argument_group("classes in words: of every pixel, or of the objects of --checkpoint")
    add = group.add_argument
    add("--words", metavar="NAMES", help="classes: names with commas, or a file with one per line")
    add_core(group, required=False)
    add_templates(group)
    affinity = "which patches belong together: a released encoder, or the number of a block of --encoder"
    add("--affinity", metavar="NAME|BLOCK", help=affinity)
    add("--affinity-weights", metavar="PATH", help="other weights for the encoder of --affinity, or 'none'")
    add("--beta", type=number_in(0), default=DEFAULTS["beta"], help="of the affinity: share of the mean cosine")
    add("--gamma", type=number_in(0), default=DEFAULTS["gamma"], help="of the affinity: more keeps to similar patches")
    add("--background", metavar="NAMES", help="words for a further class, background: names with commas, or a file")
    threshold = "where no word is as probable as this, between 0 and 1, a pixel is background"
    add("--background-threshold", type=number_in(0, 1), metavar="SHARE", help=threshold)


def check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse options that say nothing, or contradict each other."""
    if options.words is None:
        if not options.checkpoint:
            parser.error("give --checkpoint, or classes with --words and --encoder")
        for name, value in DEFAULTS.items():
            if getattr(options, name) != value:
                parser.error(f"--{name.replace('_', '-')} belongs to --words; give the classes there")
        return
    if options.encoder is None and not options.checkpoint:
        parser.error(
            "--words needs --encoder, a released PE-Core such as PE-Core-L14-336, or a folder that contains one"
        )
    if options.checkpoint:
        _check_naming(options, parser)
    elif options.threshold is not None:
        parser.error("--threshold is for the scores of objects; pixels without a word need --background-threshold")
    if options.background is not None and options.background_threshold is not None:
        parser.error("--background names words and --background-threshold needs none; leave out either")
    if options.background_threshold in (0, 1):
        parser.error(f"--background-threshold {options.background_threshold:g}: give a number between 0 and 1")
    if options.affinity is None and options.affinity_weights is not None:
        parser.error("--affinity-weights belongs to --affinity; name the encoder there")


def _check_naming(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Words name the objects of one model, and make no maps."""
    if len(options.checkpoint) > 1:
        parser.error("--words name the objects of one model; give one --checkpoint")
    for name in ("affinity", "affinity_weights", "beta", "gamma", "background", "background_threshold"):
        if getattr(options, name) != DEFAULTS[name]:
            parser.error(f"--{name.replace('_', '-')} is for maps of words; with --checkpoint, words name its objects")


def overrides(options: argparse.Namespace, config: Mapping[str, Any], checkpoint: Path) -> list[str]:
    """Changes of the config of a trained segmenter of words, so that it finds these words.

    Raises:
        OptionError: The model has no words of its own, or the words cannot be compared.
    """
    from pe_spatial.zero_shot.lists import read_prompts

    kind = config["model"]["type"]
    if kind != "OpenVocabularySegmentor":
        raise OptionError(
            f"{checkpoint} holds a {kind}, which does not know words: give a PE-Core with --encoder, such "
            "as PE-Core-L14-336, or a folder that contains one"
        )
    prompts = read_prompts(options.words, options.templates)
    changes = {"classes": prompts.classes} | ({} if options.templates == NONE else {"templates": prompts.templates})
    return [f"model.{name}={json.dumps(values)}" for name, values in changes.items()]


def read_words(options: argparse.Namespace) -> tuple[Prompts, dict[str, Any]]:
    """The words that name objects, and what two runs into one folder must have in common of them."""
    from pe_spatial.backbones.text.runs import fingerprint_of, source_of
    from pe_spatial.zero_shot.lists import read_prompts

    prompts = read_prompts(options.words, options.templates)
    weights = fingerprint_of(source_of(options.encoder, options.weights))
    described = {"named_by": options.encoder, "named_by_weights": weights}
    return prompts, described | {"prompts": _lists(prompts)}


def recipe(options: argparse.Namespace) -> tuple[Recipe, dict[str, Any]]:
    """The model that the options stand for, and what two runs into one folder must have in common.

    Raises:
        OptionError: Words that cannot be compared; see `Prompts`.
        UnknownName: There is no such encoder.
    """
    from pe_spatial.backbones.text import Prompts
    from pe_spatial.backbones.text.runs import shape_of, source_of
    from pe_spatial.backbones.variants import get_variant
    from pe_spatial.inference.predictor import Recipe
    from pe_spatial.zero_shot.lists import read_names, read_templates

    words = read_names(options.words)
    others = () if options.background is None else read_names(options.background)
    prompts = Prompts((*words, *others), read_templates(options.templates))  # complains before anything is loaded
    has_background = bool(others) or options.background_threshold is not None
    if has_background and BACKGROUND in words:
        raise OptionError(
            f"{BACKGROUND!r} is among --words, but it is the class of everything else; remove it from --words"
        )
    classes = [*words, *([BACKGROUND] if has_background else [])]
    shape, source = shape_of(options.encoder), source_of(options.encoder, options.weights)
    affinity = _affinity(options)
    model: dict[str, Any] = {
        "type": "OpenVocabularySegmentor",
        "maps": {"core": {"variant": shape, "weights": source}, "affinity": affinity},
        "classes": classes,
        "templates": list(prompts.templates),
        "window": _window(get_variant(shape).image_size, get_variant(shape).patch_size),
    }
    model["maps"] |= {"beta": options.beta, "gamma": options.gamma}
    if others:
        model["words"] = {BACKGROUND: list(others)}
    elif has_background:
        model["background"] = {"name": BACKGROUND, "threshold": options.background_threshold}
    size = round(_SHORT_SIDE * get_variant(shape).image_size)
    steps = [{"type": "LoadImage"}, {"type": "KeepRatioResize", "size": size, "max_size": max(_LONGEST, size)}]
    config = {
        "model": model,
        "custom_imports": {"imports": ["pe_spatial.segmentation"]},
        "val_dataloader": {"dataset": {"pipeline": [*steps, {"type": "PackSample"}]}},
    }
    described = _description(options, prompts, len(words), source, affinity)
    return Recipe(options.encoder, config, {"classes": classes}), described


def _window(side: int, patch: int) -> dict[str, int]:
    """A window of the size that the encoder was trained with; the stride is a multiple of the patch."""
    return {"size": side, "stride": max(round(_STRIDE * side / patch), 1) * patch}


def _affinity(options: argparse.Namespace) -> int | dict[str, Any] | None:
    """What `TextAlignedMap` takes.

    Raises:
        OptionError: Weights for a block, or an encoder that is none.
    """
    from pe_spatial.backbones.text.runs import RANDOM
    from pe_spatial.backbones.variants import VARIANTS
    from pe_spatial.common.errors import UnknownName, suggest

    name = options.affinity
    if name is None:
        return None
    if name.removeprefix("-").isdecimal():
        if options.affinity_weights is not None:
            raise OptionError(
                f"--affinity {name} is a block of --encoder and uses its weights; remove the weights for --affinity"
            )
        return int(name)
    if name not in VARIANTS:
        raise UnknownName(f"there is no encoder {name!r}; {suggest(name, VARIANTS)}; or give the number of a block")
    weights = options.affinity_weights or name
    return {"type": "PEBackbone", "variant": name, "weights": None if weights == RANDOM else weights}


def _description(
    options: argparse.Namespace,
    prompts: Prompts,
    words: int,
    source: str | None,
    affinity: int | dict[str, Any] | None,
) -> dict[str, Any]:
    """Equal for two runs that give equal results."""
    from pe_spatial.backbones.text.runs import fingerprint_of

    described: dict[str, Any] = {
        "model": options.encoder,
        "weights": fingerprint_of(source),
        "prompts": f"{words} classes, {_lists(prompts)}",
        **{name: getattr(options, name) for name in ("affinity", "beta", "gamma", "background_threshold")},
    }
    if isinstance(affinity, dict):
        described["affinity_weights"] = fingerprint_of(affinity["weights"])
    return described


def _lists(prompts: Prompts) -> str:
    return f"{len(prompts.classes)} words, {len(prompts.templates)} templates, {prompts.digest}"
