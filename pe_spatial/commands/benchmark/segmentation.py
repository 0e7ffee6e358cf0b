"""Prediction of a folder against mmseg's MMSegInferencer: `pe-spatial benchmark segmentation`."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from pe_spatial.commands.benchmark.measuring import in_own_process, median_ratio, show, take_turns
from pe_spatial.common.allocator import default_allocator
from pe_spatial.common.devices import peak_memory
from pe_spatial.common.errors import UserError
from pe_spatial.common.linear import plain_operators
from pe_spatial.common.names import output_stems
from pe_spatial.common.pictures import read_indices
from pe_spatial.common.records import Records
from pe_spatial.common.sources import resolve_sources
from pe_spatial.inference.predictor import Predictor
from pe_spatial.segmentation.windows import check_window
from pe_spatial.training.amp import precision_for
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import compare_keys, describe
from pe_spatial.training.config import drop_pretrained, load_config
from pe_spatial.training.run_config import config_of_checkpoint

Segment = Callable[[list[Path], Path], None]
Build = Callable[[Path, str, list[float]], Segment]

CHUNK = 4  # images per call of mmseg's inferencer
MEMORY_WINDOW = {"size": [1024, 1024], "stride": [1024, 1024]}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run, show and return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        report = compare_speed(options, Path(folder)) if options.rounds else {}
        if options.memory:
            report["memory"] = compare_memory(options, Path(folder))
    return report


# --- speed ------------------------------------------------------------------------------------------------------------
def compare_speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both on the same images, in turns."""
    files = [entry.path for entry in resolve_sources(options.input, ["image"])][: options.limit]
    checkpoint = make_checkpoint(options.config, options.classes, folder / "model.pth", weights=options.weights)
    of_checkpoint = options.engine in (None, "torch", "compile")
    precision = precision_for(options.precision, torch.device(options.device))
    sources = {**dict.fromkeys(RUNS, checkpoint), "ours": checkpoint if of_checkpoint else write_export(checkpoint)}
    builds: dict[str, Build] = {**RUNS, "ours": partial(our_run, engine=options.engine, precision=precision)}
    networks: dict[str, list[float]] = {name: [] for name in RUNS}  # seconds of every call
    runs = {name: build(sources[name], options.device, networks[name]) for name, build in builds.items()}

    def segment(name: str, number: int) -> tuple[float, float, float]:
        networks[name].clear()
        started = time.perf_counter(), time.process_time()
        runs[name](files, folder / f"{name}_{number}")
        return time.perf_counter() - started[0], time.process_time() - started[1], sum(networks[name])

    rounds = take_turns({name: partial(segment, name) for name in runs}, options.rounds)
    wall, cpu, inside = ({name: [times[kind] for times in rounds[name]] for name in runs} for kind in range(3))
    setting = {"config": options.config, "classes": options.classes, "images": len(files)}
    setting |= {} if options.engine is None else {"engine": options.engine}
    setting |= {} if precision is None else {"precision": precision}
    figures = {"ratio": median_ratio(*wall.values()), "ratio_cpu_time": median_ratio(*cpu.values())}
    for name in runs:
        figures[f"{name}_images_per_s"] = len(files) / statistics.median(wall[name])
        figures[f"{name}_share_of_network"] = sum(inside[name]) / sum(wall[name])
    figures["equal_labels"] = compare_labels(files, folder, options.rounds)
    ratios = [theirs / ours for ours, theirs in zip(*wall.values(), strict=True)]
    show(setting)
    show(figures)
    show({f"ratio_of_round_{number}": ratio for number, ratio in enumerate(ratios, start=1)})
    return {**setting, **figures, "ratios": ratios}


def timing(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """A function that also notes how long each of its calls takes."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return result

    return timed


def compare_labels(files: list[Path], folder: Path, number: int) -> float:
    """The share of pixels for which both wrote the same label; mmseg numbers its files."""
    equal = pixels = 0
    for index, file in enumerate(files):
        ours = read_indices(folder / f"ours_{number}" / "labels" / f"{file.stem}.png")
        place = folder / f"mmseg_{number}" / f"{number * len(files) + index:08d}_pred.png"
        theirs = read_indices(place)
        equal += int((ours == theirs).sum())
        pixels += ours.size
    return equal / pixels


# --- the two ----------------------------------------------------------------------------------------------------------
def make_checkpoint(
    name: str,
    classes: int,
    path: Path,
    window: dict[str, Any] | None = None,
    keep_size: bool = True,
    weights: Path | None = None,
) -> Path:
    """Weights of a recipe in a file that both read.

    Args:
        name: Of the recipe.
        classes: Of the model.
        path: Of the file.
        window: Of the model, instead of the recipe's.
        keep_size: Leave out of the pipeline what resizes images.
        weights: A checkpoint of such a model; None: random weights.

    Raises:
        UserError: The checkpoint is that of another model.
    """
    overrides = [f"model.num_classes={classes}"]
    config = load_config(name, overrides)
    drop_pretrained(config.model)
    if keep_size:
        config.val_dataloader.dataset.pipeline = [{"type": "LoadImage"}, {"type": "PackSample"}]
    if window is not None:
        config.model.window = window
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    if weights is not None:
        state = Predictor(weights, "cpu").model.state_dict()  # with a frozen encoder too, which lies elsewhere
        if misfit := compare_keys(model, state):
            raise UserError(f"{weights}: does not fit {name} with {classes} classes: {misfit}; give its --config")
        model.load_state_dict(state)
    state = model.state_dict()
    names = tuple(f"class {number}" for number in range(classes))
    content = {"state_dict": state, "pe_spatial": describe(config.to_dict(), {"classes": names})}
    save_checkpoint({**content, "meta": {"dataset_meta": {"classes": names, "palette": [[0, 0, 0]] * classes}}}, path)
    return path


def write_export(checkpoint: Path) -> Path:
    """The ONNX file of a checkpoint for pictures of any size, with its proof; there are no data to judge it on."""
    from pe_spatial.export import ExportOptions, ModelSubject, export

    # a file of one size would pad what is smaller than a window, and see other pictures than the checkpoint
    subject = ModelSubject(checkpoint, None)
    return export(subject, checkpoint.parent / "exported" / "onnx_fp32", ExportOptions(), metric=False)


def our_run(
    checkpoint: Path, device: str, network: list[float], engine: str | None = None, precision: str | None = None
) -> Segment:
    """A function that segments files into a folder as `pe-spatial predict --no-pictures` does."""
    from pe_spatial.commands.predict import predict
    from pe_spatial.commands.task_options import DEFAULT_THRESHOLD
    from pe_spatial.segmentation.predictor import SegmentationPredictor
    from pe_spatial.segmentation.results import SegmentationWriter

    predictor = SegmentationPredictor(checkpoint, device, engine=engine, precision=precision)
    predictor.model.score_map = timing(predictor.model.score_map, network)
    options = argparse.Namespace(no_pictures=True, threshold=DEFAULT_THRESHOLD)

    def run(files: list[Path], output: Path) -> None:
        names = {entry.name: entry for entry in resolve_sources(files)}
        writer = SegmentationWriter(Records(output, {}), output_stems(names), predictor, options)
        predict(predictor, writer, names)

    return run


def mmseg_run(checkpoint: Path, device: str, network: list[float]) -> Segment:
    """A function that segments files into a folder with mmseg's inferencer, without drawing."""
    from mmengine.infer import BaseInferencer
    from mmseg.apis import MMSegInferencer

    model = config_of_checkpoint(checkpoint).model.to_dict()
    window, preprocessor = model.pop("window", None), model.pop("data_preprocessor")
    sliding = {} if window is None else dict(zip(("crop_size", "stride"), check_window(**window), strict=True))
    head = {**model["decode_head"], "num_classes": model.pop("num_classes")}
    backbone = MODELS.build(model["backbone"])
    head["in_channels"] = backbone.channels[-1]
    plain = {
        **model,
        "type": "EncoderDecoder",
        "decode_head": head,
        "test_cfg": {"mode": "slide" if sliding else "whole", **sliding},
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "mean": list(backbone.mean),
            "std": list(backbone.std),
            "bgr_to_rgb": True,
            "test_cfg": {"size_divisor": preprocessor["size_divisor"]},
        },
    }
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "PackSegInputs"}]
    settings = {
        "model": plain,
        "test_dataloader": {"dataset": {"pipeline": pipeline}},
        "visualizer": {"type": "SegLocalVisualizer"},
    }
    inferencer = MMSegInferencer(Config(settings), str(checkpoint), device=device, show_progress=False)
    inferencer.model.extract_feat = timing(inferencer.model.extract_feat, network)
    inferencer.model.decode_head.forward = timing(inferencer.model.decode_head.forward, network)

    def run(files: list[Path], output: Path) -> None:
        with plain_operators(), default_allocator():  # what is ours in the encoder and in the command is not mmseg's
            for start in range(0, len(files), CHUNK):
                chunk = [str(path) for path in files[start : start + CHUNK]]
                # its own __call__ cannot write labels without drawing
                BaseInferencer.__call__(inferencer, chunk, pred_out_dir=str(output), img_out_dir="")

    return run


RUNS: dict[str, Build] = {"ours": our_run, "mmseg": mmseg_run}


# --- memory -----------------------------------------------------------------------------------------------------------
def compare_memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory of both on one image, each in a fresh process."""
    height, width = options.memory
    image = folder / "large.jpg"
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (height // 50, width // 50, 3), dtype=np.uint8))
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(image, quality=90)
    rows = {}
    print(f"one image of {height} x {width}, windows of {MEMORY_WINDOW['size']}:", flush=True)
    for name, classes in zip(RUNS, options.memory_classes, strict=True):
        rows[name] = {"classes": classes, **in_own_process(measure_memory, name, classes, image, options)}
        show({"way": name, **rows[name]})
    return {"height": height, "width": width, **rows}


def measure_memory(name: str, classes: int, image: Path, options: argparse.Namespace) -> dict[str, float]:
    """Segment one image; returns the peak of this process's resident memory before and after."""
    torch.set_num_threads(options.threads)
    Image.MAX_IMAGE_PIXELS = None
    checkpoint = make_checkpoint(options.config, classes, image.with_name(f"{name}.pth"), MEMORY_WINDOW)
    run = RUNS[name](checkpoint, options.device, [])
    before, started = peak_memory("cpu"), time.perf_counter()
    run([image], image.with_name(f"{name}_memory"))
    seconds = time.perf_counter() - started
    return {"before_mb": 1e3 * before, "peak_mb": 1e3 * peak_memory("cpu"), "seconds": seconds}
