"""Our numbers against those of the official implementations: `pe-spatial benchmark fidelity`."""

import argparse
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision

from pe_spatial import __version__
from pe_spatial.commands.benchmark.fidelity.deta import compare_deta
from pe_spatial.commands.benchmark.fidelity.encoders import (
    ENCODERS,
    compare_clip,
    compare_detection_backbone,
    compare_encoders,
    compare_lang,
)
from pe_spatial.commands.benchmark.fidelity.mask_rcnn import compare_mask_rcnn
from pe_spatial.commands.benchmark.fidelity.rule import Difference
from pe_spatial.commands.benchmark.fidelity.table import figure, markdown, write_table
from pe_spatial.commands.benchmark.fidelity.tracking import compare_davis, compare_propagation
from pe_spatial.common.devices import device_name
from pe_spatial.common.errors import OptionError, UserError

GOLDEN = Path(__file__).parents[4] / "tests" / "data"  # of a checkout; an installed package has none


class Comparison(NamedTuple):
    """A function from the folder of golden files to lines of the table, and the files that it reads."""

    compare: Callable[[Path], list[Difference]]
    files: tuple[str, ...]


COMPARISONS = {
    "encoders": Comparison(compare_encoders, tuple(f"backbone_{name}.npz" for name in ENCODERS)),
    "clip": Comparison(compare_clip, ("clip.npz", "clip_cls_context32.npz", "clip_nocls_context72.npz")),
    "lang": Comparison(compare_lang, ("plm.npz",)),
    "detection_backbone": Comparison(compare_detection_backbone, ("backbone_windowed.npz",)),
    "mask_rcnn": Comparison(
        compare_mask_rcnn, ("maskrcnn_coco.npz", "maskrcnn_coco_keys.json", "maskrcnn_coco_anchor_deltas.npz")
    ),
    "deta": Comparison(compare_deta, ("deta.npz", "deta_keys.json", "deta_targets.npz", "deta_losses.json")),
    "propagation": Comparison(compare_propagation, ("label_propagation.npz",)),
    "davis": Comparison(compare_davis, ("davis_metric.npz",)),
}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run all comparisons whose files are there, show the table, and write it where it is asked for."""
    folder = find_golden(options.golden)
    absent = missing_files(folder)
    if absent and options.document:
        raise UserError(
            f"{folder}: without {', '.join(sum(absent.values(), []))} the table would be incomplete; it is not written"
        )
    lines = []
    for name, comparison in COMPARISONS.items():
        if name in absent:
            print(f"not measured: {name}, for {folder} lacks {', '.join(absent[name])}")
        else:
            with torch.no_grad():
                lines += comparison.compare(folder)
    if unread := unread_files(folder):
        print(f"not read: {', '.join(unread)}; no comparison is about them")
    versions = {
        date.today().isoformat(): "",
        "pe_spatial": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        device_name("cpu"): "",
    }
    table = markdown(lines, versions)
    print(table)
    if options.document:
        write_table(options.document, table)
    exceeded = [line for line in lines if not line.passed]
    for line in exceeded:
        print(f"too different: {line.what}: {figure(line.largest, line.unit)}, {figure(line.allowed)} passes")
    return {"lines": [line._asdict() for line in lines], "exceeded": len(exceeded), "not_measured": list(absent)}


def find_golden(folder: Path | None) -> Path:
    """The folder of golden files.

    Raises:
        OptionError: There is none, or it has none of the files.
    """
    if folder is None and not GOLDEN.is_dir():
        raise OptionError(
            "an installed package has no golden files; give their folder with --golden (tests/data of a checkout)"
        )
    folder = folder or GOLDEN
    if not folder.is_dir():
        raise OptionError(f"--golden {folder} is not a folder; give one with golden files (tests/data of a checkout)")
    if len(missing_files(folder)) == len(COMPARISONS):
        raise OptionError(f"--golden {folder} has no complete set of golden files; tests/data of a checkout has them")
    return folder


def missing_files(folder: Path) -> dict[str, list[str]]:
    """The files that comparisons lack, by the name of the comparison."""
    absent = {
        name: [file for file in comparison.files if not (folder / file).is_file()]
        for name, comparison in COMPARISONS.items()
    }
    return {name: files for name, files in absent.items() if files}


def unread_files(folder: Path) -> list[str]:
    """Files beside the golden ones that no comparison reads."""
    read = {file for comparison in COMPARISONS.values() for file in comparison.files}
    return sorted({path.name for path in folder.iterdir() if path.suffix in (".npz", ".json")} - read)
