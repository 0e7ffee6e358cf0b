"""Compute the maps of the SAM 2.1 teacher once for a list of images, so that training never runs SAM.

    pe-spatial cache-teacher --input photos --output CACHE
    pe-spatial cache-teacher --input list.txt --output CACHE --rank 64
    torchrun --nproc-per-node 8 -m pe_spatial cache-teacher --input 'shards/*.tar' --output CACHE --bf16

After a kill, run the same command again to continue: finished shards are kept. Training reads the cache with
`LoadTeacherMap` in its pipeline; the cache records the list of images, the teacher with its weights, and its settings,
and refuses others. --repair computes truncated and corrupted shards again; add --verify to compare every checksum.

At the default 32x32 prompts an image takes 1.06 MB, and with --rank 64, which keeps the 64 principal of the 1,024
channels, 0.14 MB. The error of the compression is measured for every image, and shown at the end.

Exit status: 0 done, 1 some images could not be read (--skip-unreadable), 2 a mistake in the command or the files,
130 interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pe_spatial.commands.options import CommandParser, add_shared, number_in, positive
from pe_spatial.common.console import print_note, print_warning, progress

if TYPE_CHECKING:
    from torch import Tensor

    from pe_spatial.alignment.cache import TeacherCache
    from pe_spatial.alignment.sam_teacher import MaskLogitTeacher
    from pe_spatial.data import ImageFolder

RESUMES = "run the same command again to continue"


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add_shared(
        parser, "--input", "--output", "--device", "--image-size", "--max-pixels", required=["--input", "--output"]
    )
    parser.set_defaults(image_size=1024)
    add("--weights", help="sam2.1_hiera_*.pt, or 'random'; default: the official name in the folder PE_SPATIAL_WEIGHTS")
    add("--size", default="large", help="of SAM 2.1: tiny, small, base_plus or large, as in the paper")
    add("--grid", type=positive, nargs="+", default=[32], metavar="N", help="tokens: ROWS COLUMNS, or one number")
    add("--kept", default="stable", help="which of SAM's masks: stable, best or single")
    add("--interpolation", default="area", help="from SAM's logits to tokens: area or bilinear")
    add("--clamp", type=number_in(0), default=32.0, metavar="X", help="limit of the logits; 0: none")
    add("--rank", type=positive, metavar="N", help="keep that many principal channels; default: all")
    add("--shard-images", type=positive, default=64, metavar="N", help="images a file; a kill costs at most one file")
    add("--prompts-per-batch", type=positive, default=64, metavar="N", help="prompts that SAM decodes at once")
    add("--bf16", action="store_true", help="run SAM in bfloat16")
    add("--verify", action="store_true", help="compare the checksums of all finished shards first")
    add("--repair", action="store_true", help="compute damaged shards again")
    add("--skip-unreadable", action="store_true", help="leave out images that cannot be read instead of stopping")
    parser.add_old_spellings({"--images": "--input"})


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse options that contradict each other."""
    if len(options.grid) > 2:
        parser.error(f"--grid {' '.join(map(str, options.grid))}: give ROWS COLUMNS, or one number for both")


def run(options: argparse.Namespace) -> int:
    """Compute what is missing; returns 1 if some images could not be read."""
    from mmengine.dist import broadcast_object_list, get_dist_info

    from pe_spatial.alignment.cache import TeacherCache
    from pe_spatial.alignment.sam_teacher import MaskLogitTeacher
    from pe_spatial.common.devices import choose_device
    from pe_spatial.data import ImageFolder
    from pe_spatial.training.distributed import set_up

    set_up({})
    images = ImageFolder(options.input)
    teacher = MaskLogitTeacher(
        options.weights,
        options.size,
        kept=options.kept,
        interpolation=options.interpolation,
        clamp=options.clamp or None,
        image_size=options.image_size,
        prompts_per_batch=options.prompts_per_batch,
    )
    rank, world_size = get_dist_info()
    todo: list[Any] = [prepare(teacher, images, options) if rank == 0 else None]
    broadcast_object_list(todo)  # also the moment from which the cache exists for all
    cache = TeacherCache(options.output)
    unreadable = compute(cache, todo[0][rank::world_size], images, teacher.to(choose_device(options.device)), options)
    if rank == 0:
        report(cache)
    return 1 if unreadable else 0


def prepare(teacher: MaskLogitTeacher, images: ImageFolder, options: argparse.Namespace) -> list[int]:
    """Begin the cache, or go on with it, and find the shards to compute.

    Raises:
        CacheError: A finished shard is damaged, and it shall not be repaired.
    """
    from pe_spatial.alignment.cache import CacheError, create_cache
    from pe_spatial.alignment.map_codec import MapCodec
    from pe_spatial.common.files import remove_leftovers

    described = {**teacher.describe(), "precision": "bfloat16" if options.bf16 else "float32"}
    grid, codec = (options.grid[0], options.grid[-1]), MapCodec(options.rank)
    cache = create_cache(options.output, described, grid, images.identities(), codec, options.shard_images)
    remove_leftovers(cache.folder)
    damaged = cache.damaged(thorough=options.verify)
    if damaged and not options.repair:
        raise CacheError("\n".join(damaged.values()))
    for number in damaged:
        cache.path(number).unlink()
        print_note(f"computing {cache.path(number).name} again")
    todo = cache.missing()
    print_note(f"{cache.num_images} images; {cache.num_shards - len(todo)} of {cache.num_shards} shards are finished")
    return todo


def compute(
    cache: TeacherCache,
    shards: Sequence[int],
    images: ImageFolder,
    teacher: MaskLogitTeacher,
    options: argparse.Namespace,
) -> list[str]:
    """Compute the shards of this process; returns what could not be read."""
    import torch
    from mmengine.dist import is_main_process

    from pe_spatial.common.errors import UnreadableFile
    from pe_spatial.data import LoadImage

    load, unreadable = LoadImage(), []
    device = teacher.statistics.device
    precision = torch.autocast(device.type, torch.bfloat16, enabled=options.bf16)

    @torch.inference_mode()
    def maps(row: int) -> Tensor | None:
        try:
            image = load(images.get_data_info(row))["img"]
        except UnreadableFile as error:
            if not options.skip_unreadable:
                raise
            print_warning(f"left out: {error}")
            unreadable.append(str(error))
            return None
        pixels = image.as_subclass(torch.Tensor).to(device)[None].float() / 127.5 - 1
        with precision:
            return teacher(pixels, [], cache.grid)[0].float()

    total = sum(len(cache.rows(number)) for number in shards)
    with progress("images", total, "images", shown=is_main_process()) as bar:
        for number in shards:
            for _ in cache.fill(number, maps):
                bar.advance()
    return unreadable


def report(cache: TeacherCache) -> None:
    """What there is now, and what coding costs."""
    missing, errors = cache.missing(), cache.errors()
    if missing:
        print_note(f"other processes still compute {len(missing)} of {cache.num_shards} shards")
    if len(errors):
        num_bytes = sum(path.stat().st_size for path in cache.folder.glob("maps-*"))
        images = cache.num_images - sum(len(cache.rows(number)) for number in missing)
        print(
            f"{cache.folder}: {images} images, {num_bytes / images:,.0f} bytes each; coding changes the targets exp(20 "
            f"(cosine - 1)) by {float(errors[:, 0].mean()):.1e} on average, {float(errors[:, 1].max()):.1e} at most"
        )
