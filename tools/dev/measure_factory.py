"""What each part of an alignment from teachers of any kind gains on real features: a table over seeds.

    python tools/dev/measure_factory.py --data coco --davis davis --weights vit_s14.safetensors --output factory

The teacher is the encoder of tools/dev/real_encoder.py. The student has four blocks of width 192 (2.0 M parameters) and
begins from random weights, or in the rows `from a PE-Core` from one that tools/dev/make_demo_encoder.py trains. The
photographs are those of train2017 in the folder of COCO, in augmented views that are made once. Every row changes one
thing of the row `as it is`, which is what `pe-spatial train alignment --teacher vit_small_patch14_dinov2=FILE` does.
Students are judged by

    cosine   mean cosine to the teacher on photographs of val2017, through the head
    matched  share of tokens that are found again in views of photographs of val2017, 224 pixels, last block
    mIoU     the linear probe of measure_fine_maps.py: 13 classes, 256 pixels, batches of 1024 tokens
    J&F      tracking of the videos of DAVIS with DINOv3's protocol, short side 320, radius 8, one frame in four

A part is proven if it gains more than the spread of the seeds (largest less smallest, of both rows) on matched, mIoU or
J&F and loses more on none. The cosine is not judged: that to standardized targets, which have no mean in common, is
lower. The folder of output holds every run and `table.md`. Interrupted, the same command goes on, and it may run
several times at once.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any

import factory_material
from mmengine.config import Config

from pe_spatial.commands.options import CommandParser, positive
from pe_spatial.commands.shell import run_module
from pe_spatial.common.errors import OptionError, suggest
from pe_spatial.common.files import write_json, write_text
from pe_spatial.common.locks import FolderInUseError, lock_folder
from pe_spatial.own.compose import Composition, compose
from pe_spatial.own.request import Request
from pe_spatial.own.run import train_composition

TEACHER = "vit_small_patch14_dinov2"
AS_IT_IS, BEFORE, CORE = "as it is", "before", " from a PE-Core"
AND = "+"  # joins the names of parts that are measured together
MEASURES = ("cosine", "matched", "mIoU", "J&F")
JUDGED = MEASURES[1:]
STEPS_OF_STATISTICS = 20
SEEDS = 3  # from which the spread tells something
RESUMES = "run the same command again to continue"

Results = dict[str, dict[str, float]]  # "row, seed N" -> measure -> value


def _distill(**fields: Any) -> Callable[[Config], None]:
    return lambda config: config.model.distill[TEACHER].update(fields)


def _views(**fields: Any) -> Callable[[Config], None]:
    return lambda config: config.model.update(views=fields)


def _shift(config: Config) -> None:
    config.model.views = {"shift": 1}
    config.train_dataloader.dataset.pipeline.insert(-1, {"type": "RandomShifts", "most": 1, "windows": 2})


def _gram(config: Config) -> None:
    config.model.teachers.anchor = {**config.model.teachers[TEACHER], "scale": 2}
    config.model.gram = {"teacher": "anchor"}


def _hiding(weight: float) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        (step,) = (step for step in config.train_dataloader.dataset.pipeline if step["type"] == "HideTokens")
        step["ratio"] = 0.75
        config.model.distill[TEACHER].hidden = weight

    return change


def _sizes(config: Config) -> None:
    (side,) = {max(step["size"]) for step in config.val_dataloader.dataset.pipeline if "size" in step}
    config.model.views = {"sizes": [side // 2, side]}


PARTS: dict[str, Callable[[Config], None]] = {
    "smooth-l1": _distill(cosine=0.9, smooth_l1=0.1),
    "channels": _distill(standardize="channels", freeze_after=STEPS_OF_STATISTICS),
    "isotropic": _distill(standardize="isotropic", freeze_after=STEPS_OF_STATISTICS),
    "summary": _distill(summary=1.0),
    "hiding": _hiding(weight=1.0),
    "hiding-apart": _hiding(weight=0.25),
    "shift": _shift,
    "sizes": _sizes,
    "gram": _gram,
}


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of COCO")
    add("--davis", type=Path, required=True, help="folder of videos in DAVIS's layout")
    add("--weights", type=Path, required=True, help="of the teacher; see tools/dev/real_encoder.py")
    add("--output", type=Path, required=True, help="folder to write")
    add("--parts", nargs="*", default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}, or some joined by +")
    add("--core-parts", nargs="*", default=[], metavar="PART", help="to measure from a PE-Core as well")
    add("--layer", type=positive, default=None, metavar="N", help="block of the teacher to learn (default: the last)")
    add("--seeds", type=positive, default=SEEDS, metavar="N", help=f"how many (default: {SEEDS})")
    add("--iterations", type=positive, default=400, metavar="N", help="of a run (default: 400)")
    add("--image-size", type=positive, default=128, metavar="PIXELS", help="of the student (default: 128)")
    add("--batch-size", type=positive, default=8, metavar="N", help="(default: 8)")
    add("--views", type=positive, default=12, metavar="N", help="augmented views of a photograph (default: 12)")
    add("--limit", type=positive, default=None, metavar="N", help="pictures of each part of the judgment")


def run(options: argparse.Namespace) -> int:
    """Measure what is missing, and write the table."""
    for part in (*options.parts, *options.core_parts):
        for name in part.split(AND):
            if name not in (*PARTS, BEFORE, AS_IT_IS):
                raise OptionError(f"there is no part {name!r}; {suggest(name, PARTS)}")
    rows = [BEFORE, AS_IT_IS, *options.parts, *(part + CORE for part in options.core_parts)]
    for seed in range(options.seeds):
        for row in rows:
            with suppress(FolderInUseError), lock_folder(options.output, f"row {row}_{seed}"):
                _measure_once(options, row, seed)
    text = table(read_results(options.output))
    write_text(options.output / "table.md", text)
    print(text, end="")
    return 0


def _measure_once(options: argparse.Namespace, row: str, seed: int) -> None:
    path = folder_of(options, row, seed) / "judged.json"
    if path.is_file():
        return
    started = time.process_time()
    found = measure(options, row, seed)
    write_json(path, {"row": row, "seed": seed, "cpu_seconds": time.process_time() - started, "values": found})
    print(f"{row}, seed {seed}", found, flush=True)


def folder_of(options: argparse.Namespace, row: str, seed: int) -> Path:
    """Of the run of a row."""
    folder: Path = options.output / f"{row.replace(' ', '_')}_{seed}"
    return folder


def read_results(folder: Path) -> Results:
    """What has been measured in a folder so far."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/judged.json"))]
    return {f"{each['row']}, seed {each['seed']}": each["values"] for each in found}


def measure(options: argparse.Namespace, row: str, seed: int) -> dict[str, float]:
    """Train a student with one part changed, and judge it; `BEFORE` is trained for one step with no rate."""
    composition = composed(options, row, seed)
    folder = Path(composition.config.work_dir)
    if (folder / "result.json").is_file() and (folder / "student.pt").is_file():
        cosine = json.loads((folder / "result.json").read_text())["metrics"]["align/semantic_cosine"]
    else:
        cosine = train_composition(composition).metrics["align/semantic_cosine"]
    return {"cosine": cosine, **factory_material.judge(options, folder / "student.pt")}


def composed(options: argparse.Namespace, row: str, seed: int) -> Composition:
    """The training of a row."""
    folder, part = folder_of(options, row, seed), row.removesuffix(CORE)
    weights = factory_material.make_core(options.output / "core") if row.endswith(CORE) else "none"
    request = Request(
        "alignment",
        options.data / "train2017",
        model="core-tiny",
        weights=weights,
        teacher=[f"{TEACHER}={options.weights}"],
        iterations=1 if part == BEFORE else options.iterations,
        lr=1e-12 if part == BEFORE else 2e-3,
        image_size=options.image_size,
        batch_size=options.batch_size,
        workers=0,
        seed=seed,
        output=folder,
        overrides=[f"experiment_name=factory_{folder.name}"],
    )
    composition = compose(request)
    config = composition.config
    _prepare(options, config)
    for name in part.split(AND):
        PARTS.get(name, lambda _: None)(config)
    return composition


def _prepare(options: argparse.Namespace, config: Config) -> None:
    """Views that are made once in the place of photographs, a teacher that remembers, the student of the study."""
    train, val = config.train_dataloader.dataset, config.val_dataloader.dataset
    steps = [step for step in train.pipeline if step["type"] not in ("HideTokens", "PackSample")]
    views = options.output / "views"
    factory_material.make_views(options.data / "train2017", views, options.views, steps)
    rest = [step for step in train.pipeline if step not in steps]
    source = {"type": "ImageFolder", "unreadable": "raise"}
    config.train_dataloader.dataset = {**source, "source": str(views), "pipeline": [{"type": "LoadImage"}, *rest]}
    judged = {"source": str(options.data / "val2017"), "indices": 16, "test_mode": True, "pipeline": val.pipeline}
    config.val_dataloader.dataset = {**source, **judged}
    config.train_cfg.val_interval = config.default_hooks.checkpoint.interval = config.train_cfg.max_iters
    teacher = config.model.teachers[TEACHER]
    teacher.update(type="RememberedTeacher", memory=str(options.output / "memory"), layer=options.layer)
    config.model.student.variant = dict(factory_material.STUDENT)


def table(results: Results) -> str:
    """Mean and range of every row, the difference to the row `as it is`, and whether it is more than the spread."""
    lines = ["| student | seeds | " + " | ".join(MEASURES) + " | proven |", "|---|" + "---|" * (len(MEASURES) + 2)]
    found = {key.rpartition(", seed ")[0] for key in results}
    known = [BEFORE, AS_IT_IS, *PARTS]
    together = sorted(row for row in found if AND in row)
    order = [row + start for start in ("", CORE) for row in known] + together
    values = {row: _values(results, row) for row in order if row in found}
    for row, measures in values.items():
        cells = [f"{mean(each):.4f} ({min(each):.4f} to {max(each):.4f})" for each in measures.values()]
        reference = AS_IT_IS + CORE if row.endswith(CORE) else AS_IT_IS
        unjudged = row.removesuffix(CORE) in (BEFORE, AS_IT_IS)
        verdict = "–" if unjudged else verdict_of(values[reference], measures)
        lines.append(f"| {row} | {len(measures[MEASURES[0]])} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def verdict_of(reference: dict[str, list[float]], part: dict[str, list[float]]) -> str:
    """`yes` if a part gains more than the spread of the seeds somewhere and loses more nowhere."""
    gains, losses = [], []
    if (seeds := min(len(each[JUDGED[0]]) for each in (reference, part))) < SEEDS:
        return f"not judged: {seeds} of {SEEDS} seeds"
    for measure_name in JUDGED:
        found, known = part[measure_name], reference[measure_name]
        spread = max(max(found) - min(found), max(known) - min(known))
        difference = mean(found) - mean(known)
        gains += [measure_name] * (difference > spread)
        losses += [measure_name] * (difference < -spread)
    if losses:
        return f"no: loses {', '.join(losses)}"
    return f"yes: gains {', '.join(gains)}" if gains else "no: within the spread"


def _values(results: Results, row: str) -> dict[str, list[float]]:
    runs = [found for key, found in results.items() if key.rpartition(", seed ")[0] == row]
    return {name: [found[name] for found in runs] for name in MEASURES}


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
