"""What each part of an alignment from teachers of any kind gains on real features: a table over seeds.

    python tools/dev/measure_factory.py --data coco --weights vit_s14.safetensors --output factory --seeds 3

The teacher is the encoder of tools/dev/real_encoder.py, the student `core-tiny` from random weights, the photographs
are those of train2017 in the folder of COCO. Every row changes one thing of the row `as it is`, which is what
`pe-spatial train alignment --teacher vit_small_patch14_dinov2=FILE` does. Students are judged by

    cosine   mean cosine to the teacher on photographs that are held out, through the head
    matched  share of tokens that are found again in views of photographs of val2017, 224 pixels, last block
    mIoU     the linear probe of measure_fine_maps.py: 13 classes, 448 pixels

A part is proven if it gains more than the spread of the seeds (largest less smallest, of both rows) on matched or mIoU
and loses more on neither. The cosine is not judged: that to standardized targets, which have no mean in common, is
lower. The folder of output holds every run, `results.json` and `table.md`. Interrupted, the same command goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import measure_fine_maps
from mmengine.config import Config

import pe_spatial.tracking.correspondence  # noqa: F401 - registers
from pe_spatial.alignment.hooks import try_student
from pe_spatial.backbones import PEBackbone
from pe_spatial.commands.options import CommandParser, positive
from pe_spatial.commands.shell import run_module
from pe_spatial.common.errors import OptionError, suggest
from pe_spatial.common.files import write_json, write_text
from pe_spatial.own.compose import Composition, compose
from pe_spatial.own.models import TINY_ENCODER
from pe_spatial.own.request import Request
from pe_spatial.own.run import train_composition

TEACHER = "vit_small_patch14_dinov2"
AS_IT_IS, BEFORE = "as it is", "before (random)"
MEASURES = ("cosine", "matched", "mIoU")
JUDGED = ("matched", "mIoU")
STEPS_OF_STATISTICS = 20
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


def _seen(config: Config) -> None:
    pipeline = config.train_dataloader.dataset.pipeline
    config.train_dataloader.dataset.pipeline = [step for step in pipeline if step["type"] != "HideTokens"]


def _sizes(config: Config) -> None:
    (side,) = {max(step["size"]) for step in config.train_dataloader.dataset.pipeline if step["type"] == "RandomAspect"}
    config.model.views = {"sizes": [side // 2, side]}


PARTS: dict[str, Callable[[Config], None]] = {
    "cosine-alone": _distill(cosine=1.0, smooth_l1=0.0),
    "channels": _distill(standardize="channels", freeze_after=STEPS_OF_STATISTICS),
    "isotropic": _distill(standardize="isotropic", freeze_after=STEPS_OF_STATISTICS),
    "summary": _distill(summary=1.0),
    "hidden": _distill(hidden=0.25),
    "seen": _seen,
    "shift": _shift,
    "sizes": _sizes,
    "gram": _gram,
}


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of COCO")
    add("--weights", type=Path, required=True, help="of the teacher; see tools/dev/real_encoder.py")
    add("--output", type=Path, required=True, help="folder to write")
    add("--parts", nargs="*", default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    add("--seeds", type=positive, default=3, metavar="N", help="how many (default: 3)")
    add("--iterations", type=positive, default=1000, metavar="N", help="of a run (default: 1000)")
    add("--image-size", type=positive, default=128, metavar="PIXELS", help="of the student (default: 128)")
    add("--batch-size", type=positive, default=16, metavar="N", help="(default: 16)")
    add("--limit", type=positive, default=None, metavar="N", help="pictures of each part of the judgment")


def run(options: argparse.Namespace) -> int:
    """Measure what is missing, and write the table."""
    for part in options.parts:
        if part not in PARTS:
            raise OptionError(f"there is no part {part!r}; {suggest(part, PARTS)}")
    path = options.output / "results.json"
    results: Results = json.loads(path.read_text()) if path.is_file() else {}
    for seed in range(options.seeds):
        for part in (BEFORE, AS_IT_IS, *options.parts):
            row = f"{part}, seed {seed}"
            if row in results:
                continue
            results[row] = measure(options, part, seed)
            write_json(path, results)
            print(row, results[row], flush=True)
    text = table(results)
    write_text(options.output / "table.md", text)
    print(text, end="")
    return 0


def measure(options: argparse.Namespace, part: str, seed: int) -> dict[str, float]:
    """Train a student with one part changed, and judge it; `BEFORE` is trained for one step with no rate."""
    composition = composed(options, part, seed)
    folder = Path(composition.config.work_dir)
    if (folder / "result.json").is_file() and (folder / "student.pt").is_file():
        cosine = json.loads((folder / "result.json").read_text())["metrics"]["align/semantic_cosine"]
    else:
        cosine = train_composition(composition).metrics["align/semantic_cosine"]
    return {"cosine": cosine, **judge(options, folder / "student.pt")}


def composed(options: argparse.Namespace, part: str, seed: int) -> Composition:
    """The training of a row."""
    folder = options.output / f"{part.split()[0]}_{seed}"
    request = Request(
        "alignment",
        options.data / "train2017",
        model="core-tiny",
        weights="none",
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
    if part in PARTS:
        PARTS[part](composition.config)
    return composition


def judge(options: argparse.Namespace, weights: Path) -> dict[str, float]:
    """Matches and the linear probe of an encoder."""
    backbone = PEBackbone(TINY_ENCODER, weights=str(weights), frozen=True).eval()
    photographs = {
        "type": "Photographs",
        "source": str(options.data / "val2017"),
        "indices": options.limit or 80,
        "test_mode": True,
        "pipeline": [{"type": "LoadImage"}, {"type": "PackSample"}],
    }
    matcher = {"type": "PhotographMatcher", "homographies": {"side": 224, "number": 2}}
    matched = try_student(backbone, matcher, photographs, {"type": "MatchingMetric"})
    parts = [
        list(measure_fine_maps.read_part(backbone, options.data, name, options.limit))
        for name in ("train2017", "val2017")
    ]
    probe = measure_fine_maps.train_probe(parts[0], 0)
    (found,) = measure_fine_maps.judge(backbone, parts[1], [probe], "bilinear")
    return {"matched": matched["match/matched"], "mIoU": found.miou}


def table(results: Results) -> str:
    """Mean and range of every row, the difference to the row `as it is`, and whether it is more than the spread."""
    lines = ["| student | " + " | ".join(MEASURES) + " | proven |", "|---|" + "---|" * (len(MEASURES) + 1)]
    values = {row: _values(results, row) for row in dict.fromkeys(key.rpartition(", seed ")[0] for key in results)}
    for row, measures in values.items():
        cells = [f"{mean(found):.4f} ({min(found):.4f} to {max(found):.4f})" for found in measures.values()]
        verdict = "–" if row in (BEFORE, AS_IT_IS) else verdict_of(values[AS_IT_IS], measures)
        lines.append(f"| {row} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def verdict_of(reference: dict[str, list[float]], part: dict[str, list[float]]) -> str:
    """`yes` if a part gains more than the spread of the seeds somewhere and loses more nowhere."""
    gains, losses = [], []
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
