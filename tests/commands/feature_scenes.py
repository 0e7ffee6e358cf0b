"""The encoder of the tests of features, and `pe-spatial features` with it, in this process or in one of its own."""

import os
import sys

import torch

from pe_spatial.backbones import VARIANTS, EncoderConfig
from pe_spatial.commands.shell import run_command
from pe_spatial.features.extractor import FeatureExtractor

TINY = EncoderConfig("tiny", patch_size=8, width=32, depth=3, heads=2, mlp_ratio=2, image_size=64, cls_token=True)


def run(source, output, *options):
    """The exit status of the command, in this process."""
    arguments = ["--encoder", "tiny", "--weights", "none", "--input", source, "--output", output, "--device", "cpu"]
    return run_command("features", [str(argument) for argument in [*arguments, *options]])


def child(source, output, *options, log=None, errors=None, sabotage=None):
    """A run in a process of its own, which notes what it reads, and says to a file what is wrong; ends the process."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    VARIANTS["tiny"] = TINY
    if log is not None:
        load = FeatureExtractor.load

        def noted(self, picture, *channels):
            with open(log, "a") as file:
                file.write(f"{os.path.relpath(picture, source) if isinstance(picture, os.PathLike) else 'frame'}\n")
            return load(self, picture, *channels)

        FeatureExtractor.load = noted
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what it inherits may be a file that is too large for `sabotage`
    if errors is not None:
        sys.stderr = errors.open("w")
    if sabotage is not None:
        sabotage()
    sys.exit(run(source, output, *options))
