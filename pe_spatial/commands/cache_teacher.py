"""Compute the maps of the SAM 2.1 teacher once for a list of images, so that training never runs SAM.

    python tools/cache_teacher.py --images photos --output CACHE
    python tools/cache_teacher.py --images list.txt --output CACHE --rank 64
    torchrun --nproc-per-node 8 tools/cache_teacher.py --images 'shards/*.tar' --output CACHE --bf16

The same command goes on after a kill: finished shards are kept, and only they count. Training reads the cache with
`LoadTeacherMap` in its pipeline; the cache knows the list of images, the teacher with its weights, and its settings,
and refuses any other. --repair computes truncated and corrupted shards again; add --verify to compare every checksum.

At the default 32x32 prompts an image takes 1.06 MB, and with --rank 64, which keeps the 64 principal of the 1,024
channels, 0.14 MB. What coding adds to the matrix that training compares with is measured for every image, and shown at
the end.

Exit status: 0 done, 1 some images could not be read (--skip-unreadable), 2 a mistake in the command or the files,
130 interrupted.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, get_dist_info
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from pe_spatial.alignment.cache import CacheError, TeacherCache, create_cache
from pe_spatial.alignment.map_codec import MapCodec
from pe_spatial.alignment.sam_teacher import MaskLogitTeacher
from pe_spatial.common.errors import UserError
from pe_spatial.common.files import remove_leftovers
from pe_spatial.data import ImageList, LoadImage, UnreadableFile, open_images
from pe_spatial.training.distributed import set_up

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        set_up({})
        return run(options)
    except (UserError, ValueError, OSError, ModuleNotFoundError) as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on")
        return 130


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--images", required=True, help="a folder, a list (.txt), a glob, a tar file, or a folder or glob of tar files")
    add("--output", required=True, type=Path, help="folder of the cache: new, or begun by the same command")
    add("--weights", help="sam2.1_hiera_*.pt, or 'random'; default: the official name in the folder PE_SPATIAL_WEIGHTS")
    add("--size", default="large", help="tiny, small, base_plus or large (default: large, as in the paper)")
    add(
        "--grid",
        type=int,
        nargs="+",
        default=[32],
        metavar="N",
        help="tokens: ROWS COLUMNS, or one number (default 32)",
    )
    add("--kept", default="stable", help="which of SAM's masks: stable, best or single (default stable)")
    add("--interpolation", default="area", help="from SAM's logits to tokens: area or bilinear (default area)")
    add("--clamp", type=float, default=32.0, help="limit of the logits (default 32; 0: none)")
    add("--image-size", type=int, default=1024, help="side of the square that SAM sees (default 1024)")
    add("--rank", type=int, help="keep that many principal channels (default: all)")
    add("--shard-images", type=int, default=64, help="images per file; a kill costs at most one file (default 64)")
    add("--prompts-per-batch", type=int, default=64, help="prompts that SAM decodes at once (default 64)")
    add("--bf16", action="store_true", help="run SAM in bfloat16")
    add("--device", help="for example cuda:1 or cpu; default: CUDA if there is any, one device per process")
    add("--verify", action="store_true", help="compare the checksums of all finished shards first")
    add("--repair", action="store_true", help="compute damaged shards again")
    add("--skip-unreadable", action="store_true", help="leave out images that cannot be read instead of stopping")
    options = parser.parse_args(arguments)
    if len(options.grid) > 2:
        parser.error(f"--grid {' '.join(map(str, options.grid))}: give ROWS COLUMNS, or one number for both")
    options.grid = (options.grid[0], options.grid[-1])
    return options


def run(options: argparse.Namespace) -> int:
    """Compute what is missing; returns the exit status."""
    images = open_images(options.images)
    teacher = MaskLogitTeacher(
        options.weights,
        options.size,
        kept=options.kept,
        interpolation=options.interpolation,
        clamp=options.clamp or None,
        image_size=options.image_size,
        prompts_per_batch=options.prompts_per_batch,
    )
    described = {**teacher.describe(), "precision": "bfloat16" if options.bf16 else "float32"}
    codec = MapCodec(options.rank)
    wanted = (options.output, described, options.grid, images.identities(), codec, options.shard_images)
    rank, world_size = get_dist_info()
    cache, todo = prepare(wanted, options) if rank == 0 else (None, [])
    shared: list[Any] = [todo]
    broadcast_object_list(shared)  # also the moment from which the cache exists for all
    cache = cache or create_cache(*wanted)
    mine = shared[0][rank::world_size]
    unreadable = compute(cache, mine, images, teacher.to(choose_device(options.device)), options)
    if rank == 0:
        report(cache)
    return 1 if unreadable else 0


def prepare(wanted: Any, options: argparse.Namespace) -> tuple[TeacherCache, list[int]]:
    """Open the cache and find the shards to compute.

    Raises:
        CacheError: A finished shard is damaged, and it shall not be repaired.
    """
    cache = create_cache(*wanted)
    remove_leftovers(cache.folder)
    damaged = cache.damaged(thorough=options.verify)
    if damaged and not options.repair:
        raise CacheError("\n".join(damaged.values()))
    for number in damaged:
        cache.path(number).unlink()
        console.print(f"computing {cache.path(number).name} again", highlight=False)
    todo = cache.missing()
    console.print(
        f"{cache.num_images} images; {cache.num_shards - len(todo)} of {cache.num_shards} shards are finished"
    )
    return cache, todo


def choose_device(name: str | None) -> torch.device:
    if name is None and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name or "cpu")


def compute(
    cache: TeacherCache,
    shards: Sequence[int],
    images: ImageList,
    teacher: MaskLogitTeacher,
    options: argparse.Namespace,
) -> list[str]:
    """Compute the shards of this process; returns what could not be read."""
    load, unreadable = LoadImage(), []
    device = teacher.statistics.device
    precision = torch.autocast(device.type, torch.bfloat16) if options.bf16 else nullcontext()

    @torch.inference_mode()
    def maps(row: int) -> Tensor | None:
        try:
            image = load(images.get_data_info(row))["img"]
        except UnreadableFile as error:
            if not options.skip_unreadable:
                raise
            console.print(f"skipped: {error}", markup=False, highlight=False, soft_wrap=True)
            unreadable.append(str(error))
            return None
        pixels = image.as_subclass(Tensor).to(device)[None].float() / 127.5 - 1
        with precision:
            return teacher(pixels, [], cache.grid)[0].float()

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=get_dist_info()[0] != 0) as progress:
        task = progress.add_task("", total=sum(len(cache.rows(number)) for number in shards), rate="")
        begun, done = time.monotonic(), 0
        for number in shards:
            for _ in cache.fill(number, maps):
                done += 1
                progress.update(task, advance=1, rate=f"{done / (time.monotonic() - begun):.3g} images/s per process")
    return unreadable


def report(cache: TeacherCache) -> None:
    """What there is now, and what coding costs."""
    missing, errors = cache.missing(), cache.errors()
    if missing:
        console.print(f"other processes still compute {len(missing)} of {cache.num_shards} shards")
    if len(errors):
        num_bytes = sum(path.stat().st_size for path in cache.folder.glob("maps-*"))
        images = sum(len(cache.rows(n)) for n in range(cache.num_shards)) - sum(len(cache.rows(n)) for n in missing)
        print(
            f"{cache.folder}: {images} images, {num_bytes / images:,.0f} bytes each; coding changes the targets exp(20 "
            f"(cosine - 1)) by {float(errors[:, 0].mean()):.1e} on average, {float(errors[:, 1].max()):.1e} at most"
        )


if __name__ == "__main__":
    sys.exit(main())
