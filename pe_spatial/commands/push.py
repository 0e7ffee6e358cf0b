"""Share a trained model on the Hugging Face hub, or write what would be shared.

    pe-spatial push work_dirs/NAME OWNER/NAME
    pe-spatial push work_dirs/NAME OWNER/NAME --private --message 'trained longer'
    pe-spatial push work_dirs/NAME OWNER/NAME --dry-run FOLDER

It sends the weights of the best checkpoint of the run, or of the last one (model.safetensors), the config without what
names places and accounts of this machine (config.yaml), the names of the classes (pe_spatial.json), and a page for
readers (README.md). LoRA adapters are merged into the encoder. Everything is loaded once more before it is sent.

`Predictor("hf://OWNER/NAME")` and the option `--checkpoint hf://OWNER/NAME` load the model from there. FOLDER is a
checkpoint like others, and can be pushed itself; its README.md is kept.

Log in first with `hf auth login`, or set HF_TOKEN. Class names and relative paths of the config become public with the
model. Look at FOLDER first if they must stay private.
"""

import argparse
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pe_spatial.commands.options import CommandParser, add_shared
from pe_spatial.common.console import print_note

if TYPE_CHECKING:
    from pe_spatial.inference.predictor import Predictor
    from pe_spatial.training.model_card import Evaluation, SharedModel

SHOWN_KEYS = 8
RESUMES = "nothing is visible on the hub; give the same command again"


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a training run, or a checkpoint")
    parser.add_argument("name", metavar="OWNER/NAME", help="name of the model on the hub")
    parser.add_argument("--private", action="store_true", help="make it private")
    parser.add_argument("--message", metavar="TEXT", help="message of the commit; default: the version that wrote it")
    parser.add_argument("--dry-run", metavar="FOLDER", type=Path, help="write the files to a new folder, send nothing")
    add_shared(parser, "--allow-import")


def run(options: argparse.Namespace) -> int:
    """Write the files and send them."""
    from pe_spatial import __version__
    from pe_spatial.common.errors import OptionError
    from pe_spatial.common.files import atomic_folder
    from pe_spatial.training.hub import checked_name, send

    name, folder = checked_name(options.name.removeprefix("hf://")), options.dry_run
    if folder is None:
        with TemporaryDirectory(prefix="pe_spatial_") as temporary:
            stage(options.run, name, options.allow_import, Path(temporary))
            message = options.message or f"Model written by pe_spatial {__version__}"
            print(f"sent to {send(Path(temporary), name, options.private, message)}")
        return 0
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"--dry-run {folder}: exists and is not empty, and nothing is overwritten; give a new folder")
    with atomic_folder(folder) as temporary:
        stage(options.run, name, options.allow_import, temporary)
    print(f"written to {folder}; nothing was sent")
    return 0


def stage(source: Path, name: str, trust: list[str], folder: Path) -> None:
    """Write the files of a model to be shared, and load them as others will.

    Args:
        source: A run or a checkpoint.
        name: Of the model on the hub.
        trust: Packages of the user's own that its config may import.
        folder: Exists and is empty.

    Raises:
        CheckpointError: There is no checkpoint, or it cannot predict here or without what this machine has beside it.
        UserError: Nothing predicts with such a model.
        OSError: The disk is full.
    """
    from pe_spatial.common.errors import CheckpointError, UserError
    from pe_spatial.inference.predictor import Predictor

    write(source, name, trust, folder)
    try:
        Predictor(folder, device="cpu")
    except UserError as error:
        raise CheckpointError(f"{source}: cannot be shared, because it does not load elsewhere: {error}") from error


def write(source: Path, name: str, trust: list[str], folder: Path) -> None:
    """Write the files; see `stage`."""
    from pe_spatial.commands.conversion import merge
    from pe_spatial.common.errors import few
    from pe_spatial.common.reading import read_text
    from pe_spatial.inference.predictor import Predictor
    from pe_spatial.inference.tasks import task_of
    from pe_spatial.training import published
    from pe_spatial.training.checkpoint_hook import describe
    from pe_spatial.training.model_card import evaluation_of, model_card

    predictor = Predictor(source, device="cpu")
    checkpoint = predictor.checkpoint
    if getattr(predictor.model, "task", None) is not None:
        task_of(predictor.config, checkpoint)  # refuses what has no results
    tensors, config = merge(predictor)
    config, of_config = published.without_places(config)
    metainfo, of_metainfo = published.without_places(predictor.metainfo)
    needed = [package for package in trust if re.search(rf"\b{re.escape(package)}\b", json.dumps(config))]
    kept_card = checkpoint.parent / published.CARD
    if published.is_published(checkpoint) and kept_card.is_file():
        card = read_text(kept_card)
    else:
        evaluation = evaluation_of(checkpoint)
        card = model_card(shared_model(predictor, name, needed, evaluation))
        if evaluation is None:
            print_note(f"{checkpoint.name}: the run has no validation of these weights, so the page has no numbers")
    published.write_published(folder, tensors, describe(config, metainfo), card)
    print(f"{checkpoint}: {len(tensors)} tensors, {(folder / published.WEIGHTS).stat().st_size:,} bytes")
    if left_out := [*of_config, *of_metainfo]:
        print(f"removed, because it names places or accounts of this machine: {few(left_out, SHOWN_KEYS)}")


def shared_model(predictor: "Predictor", name: str, trust: list[str], evaluation: "Evaluation | None") -> "SharedModel":
    """What the card says of the model of a predictor."""
    from pe_spatial.inference.predictor import pipeline_loader
    from pe_spatial.training.model_card import SharedModel
    from pe_spatial.training.result import model_name

    model = predictor.model
    return SharedModel(
        name=name,
        title=model_name(model, predictor.config.model),
        task=getattr(model, "task", None),
        dataset=predictor.config[pipeline_loader(predictor.config)].dataset.get("type", "data"),
        classes=predictor.classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trust=trust,
        evaluation=evaluation,
    )
