"""The options that name a frozen encoder or a PE-Core, and the extractor that they stand for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pe_spatial.commands.options import CommandParser, add_shared

if TYPE_CHECKING:
    from pe_spatial.features import FeatureExtractor

NONE = "none"  # no templates, as in pe_spatial.zero_shot.lists, which loads torch


def add_encoder(parser: CommandParser) -> None:
    """Add --encoder or --checkpoint, --weights and --layers."""
    encoder = parser.add_mutually_exclusive_group(required=True)
    encoder.add_argument(
        "--encoder",
        metavar="NAME",
        help="a released encoder such as PE-Spatial-B16-512, timm's name of one, or '{type: NAME, ...}' for any "
        "registered backbone",
    )
    add_shared(encoder, "--checkpoint")
    parser.add_argument(
        "--weights",
        help="weights of --encoder: a file, a name, or 'none' for random ones; default: the released ones, "
        "but none for timm",
    )
    add_shared(parser, "--layers")


def add_core(parser: argparse._ActionsContainer, required: bool = True) -> None:
    """Add --encoder and --weights as the commands with words take them."""
    parser.add_argument(
        "--encoder", required=required, metavar="NAME", help="a released PE-Core, or a folder that contains one"
    )
    parser.add_argument("--weights", metavar="PATH", help="other weights for it: a file, or 'none' for random ones")


def add_templates(parser: argparse._ActionsContainer) -> None:
    """Add --templates, the sentences around the names of classes."""
    parser.add_argument(
        "--templates", metavar="FILE", default=NONE, help="file of sentences with {c} for the class; or imagenet"
    )


def check_encoder(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse weights for a checkpoint."""
    if options.checkpoint and options.weights:
        parser.error("--weights belongs to --encoder; a checkpoint has its own")


def open_extractor(options: argparse.Namespace, **chosen: Any) -> FeatureExtractor:  # noqa: ANN401
    """The extractor with the encoder of these options, and with `--image-size`, `--device` and `--max-pixels`.

    Args:
        options: Of the command.
        chosen: What else the extractor takes.

    Raises:
        UserError: As of `FeatureExtractor`.
    """
    import torch

    from pe_spatial.common.errors import OptionError
    from pe_spatial.common.safe_yaml import YAMLError, parse
    from pe_spatial.features import FeatureExtractor

    encoder: Any = options.checkpoint or options.encoder
    if options.encoder and options.encoder.lstrip().startswith("{"):
        try:
            encoder = parse(options.encoder)
        except YAMLError as error:
            reason = " ".join(str(error).split())[:300]
            raise OptionError(f"--encoder {options.encoder[:200]!r}: the section is not YAML: {reason}") from error
    torch.manual_seed(0)  # random weights, where no others are given, are those of every other run
    return FeatureExtractor(
        encoder,
        weights=options.weights,
        layers=options.layers,
        image_size=options.image_size,
        device=options.device,
        max_pixels=options.max_pixels,
        **chosen,
    )
