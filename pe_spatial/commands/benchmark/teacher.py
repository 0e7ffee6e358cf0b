"""The mask teacher against SAM 2's automatic generator: `pe-spatial benchmark teacher`."""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pe_spatial.alignment.sam_teacher import MaskLogitTeacher
from pe_spatial.commands.benchmark.measuring import clock_of, median_ratio, show, timed
from pe_spatial.common.pictures import read_image
from pe_spatial.data import find_images


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time image by image, each way once; shows and returns the figures."""
    teacher = MaskLogitTeacher(options.weights, options.size, image_size=options.image_size).to(options.device)
    ways: dict[str, Callable[[torch.Tensor], Any]] = {
        "teacher": lambda image: teacher(image[None].to(options.device).float() / 127.5 - 1, [], (options.grid,) * 2),
        "generator, 1 mask per point": generator(teacher, options, multimask=False),
        "generator, 3 masks per point": generator(teacher, options, multimask=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    paths = find_images(options.input)[: options.limit]
    clock = clock_of(options.device, options.clock)
    for path in paths:
        image = read_image(path)
        for name, way in ways.items():
            with torch.inference_mode():
                seconds[name].append(timed(partial(way, image), clock))
    print(f"SAM 2.1 {options.size} at {options.image_size}, {options.grid}x{options.grid} points, {len(paths)} images")
    for name, times in seconds.items():
        ratio = median_ratio(seconds["teacher"], times)
        show({"way": name, "seconds_per_image": statistics.median(times), "ratio_to_teacher": ratio})
    return {"seconds": seconds}


def generator(teacher: MaskLogitTeacher, options: argparse.Namespace, multimask: bool) -> Callable[[torch.Tensor], Any]:
    """SAM 2's automatic mask generator on the teacher's own model."""
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator  # the teacher has said if it is missing

    made = SAM2AutomaticMaskGenerator(
        teacher.sam,
        points_per_side=options.grid,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        box_nms_thresh=1.0,
        multimask_output=multimask,
    )
    # the package writes the sizes for 1024 pixels into its predictor
    made.predictor._bb_feat_sizes = [(options.image_size // step,) * 2 for step in (4, 8, 16)]
    return lambda image: made.generate(image.permute(1, 2, 0).contiguous().numpy())
