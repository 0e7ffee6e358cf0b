"""Detection of a folder against the detector alone: `pe-spatial benchmark detector`."""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pe_spatial.commands.benchmark.features import draw_pictures
from pe_spatial.commands.benchmark.measuring import clock_of, median_ratio, show, take_turns, timed
from pe_spatial.commands.benchmark.segmentation import make_checkpoint
from pe_spatial.commands.benchmark.shared import CLASSES
from pe_spatial.common.names import output_stems
from pe_spatial.common.records import Records
from pe_spatial.common.sources import Entry, resolve_sources
from pe_spatial.inference.predictor import Predictor


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run both on the same pictures in turns, show and return the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_checkpoint(options.config, CLASSES, folder / "model.pth", keep_size=False)
        predictor = Predictor(model, options.device, options.batch_size)
        source = options.input or draw_pictures(folder / "pictures", options.limit)
        files = {entry.name: entry for entry in resolve_sources(source, ["image"])[: options.limit]}
        ready = [predictor.prepare(entry.path) for entry in files.values()]
        clock = clock_of(options.device, options.clock)
        ways: dict[str, Callable[[int], float]] = {
            "model": lambda _: timed(lambda: predictor.predict(ready), clock),
            "folder": lambda number: timed(partial(detect, predictor, files, folder / str(number)), clock),
        }
        seconds = take_turns(ways, options.rounds)
        objects = sum(len(sample.pred_instances) for sample in predictor.predict(ready))
    setting = {"config": options.config, "images": len(files), "objects": objects}
    figures = {f"{way}_images_per_s": len(files) / statistics.median(times) for way, times in seconds.items()}
    figures["of_the_model"] = median_ratio(seconds["folder"], seconds["model"])
    show(setting)
    show(figures)
    return {**setting, **figures}


def detect(predictor: Predictor, files: dict[str, Entry], output: Path) -> None:
    """Detect objects in files as `pe-spatial predict --no-pictures` does."""
    from pe_spatial.commands.predict import predict
    from pe_spatial.commands.task_options import DEFAULT_THRESHOLD
    from pe_spatial.detection.results import DetectionWriter

    options = argparse.Namespace(no_pictures=True, threshold=DEFAULT_THRESHOLD)
    predict(predictor, DetectionWriter(Records(output, {}), output_stems(files), predictor, options), files)
