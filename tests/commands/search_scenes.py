"""Pictures, videos and a small PE-Core for the tests of `pe-spatial index` and `pe-spatial search`."""

import os
import signal
import sys

import numpy as np
import torch
from PIL import Image
from small_core import TINY

from pe_spatial.backbones import PECore
from pe_spatial.backbones.text import save_core
from pe_spatial.commands.shell import run_command
from pe_spatial.common.video import VideoWriter
from pe_spatial.search.encoder import IndexEmbedder


def save_encoder(folder, seed=3, **fields):
    torch.manual_seed(seed)
    save_core(PECore(TINY | fields), folder)
    return folder


def save_picture(path, seed):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.random.default_rng(seed).integers(256, size=(20, 30, 3), dtype=np.uint8)).save(path)


def save_film(path):
    """25 frames, 10 a second, that become lighter."""
    with VideoWriter(path, rate=10) as video:
        for number in range(25):
            video.write(torch.full((3, 32, 32), 10 * number, dtype=torch.uint8))


def index(encoder, source, output, *options):
    """The exit status of `pe-spatial index`."""
    arguments = [source, "--encoder", encoder, "--output", output, "--device", "cpu", *options]
    return run_command("index", [str(argument) for argument in arguments])


def search(folder, *options):
    """The exit status of `pe-spatial search`."""
    return run_command("search", [str(argument) for argument in (folder, *options, "--device", "cpu")])


def killed_at(batch, number, *arguments):
    """A run in a process of its own that is sent a signal before its n-th batch; ends the process."""
    torch.set_num_threads(1)
    predict, seen = IndexEmbedder.predict, []

    def counted(self, samples):
        seen.extend([samples] * bool(samples))
        if len(seen) == batch:
            os.kill(os.getpid(), number)
        return predict(self, samples)

    IndexEmbedder.predict = counted
    sys.exit(index(*arguments))


def is_killed(status):
    return status in (-signal.SIGKILL, 130)
