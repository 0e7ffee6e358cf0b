"""The table of all recipes, made from the configs and their headers when the site is built; no config is run."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pe_spatial.training.config_files import read_config_file

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
MARK = "<!-- recipes: tools/docs/recipe_table.py puts the table here -->"
FOLDERS = {
    "": "Detection and instances",
    "detection": "Detection and instances",
    "detectron2": "Detectron2",
    "segmentation": "Segmentation",
    "depth": "Depth",
    "tracking": "Tracking",
    "alignment": "Alignment",
    "upsampling": "Fine maps",
    "own": "Data of your own",
    "demo": "Synthetic scenes, for a CPU",
}
DATA = {
    "ade20k": "ADE20K",
    "alignment_images": "photographs",
    "alignment_maps": "photographs, SAM's maps",
    "cityscapes": "Cityscapes",
    "coco_boxes": "COCO",
    "coco_instance": "COCO",
    "coco_instance_labels": "COCO, painted label maps",
    "coco_instance_labels_whole": "COCO, painted label maps",
    "coco_panoptic": "COCO panoptic",
    "coco_stuff": "COCO-Stuff",
    "davis2016": "DAVIS 2016",
    "davis2017": "DAVIS 2017",
    "depth_folder": "pictures with depth",
    "kitti_depth": "KITTI",
    "lvis_instance": "LVIS",
    "nyu_depth": "NYUv2",
    "objects365": "Objects365",
    "own_depth": "pictures with depth",
    "photographs": "photographs",
    "segmentation_folder": "pictures with label maps",
    "voc2012": "Pascal VOC 2012",
    "youtube_vos": "YouTube-VOS",
}
# what headers say where no number of PE exists: numbers beside it are those of other encoders
_NONE = r"\b(no number|nobody has published|not published)\b"
_NOT_MEASURED = r"\b(not measured|none measured|has not been run|not .{0,30}measured)\b"
_NUMBER = re.compile(r"\b(AP\d*|mIoU|IoU|PQ|J&F|RMSE|δ1|[SML])\b[^a-z]{0,4}\d|\bRMSE: \.\d|J&F of|AP of \d")


class Recipe(NamedTuple):
    """What a line of the table says.

    Args:
        name: Of the config, below configs/.
        title: The first sentence of its header.
        encoder: Names, first of what is used, then of teachers; or "small" for one of the demo's size.
        data: Names of its datasets.
        hardware: What the header names; a dash where it names nothing.
        published: The sentence of the header with the published number; "none" where nobody has published one.
        measured: The sentence with our number, or "not measured"; a dash where the header names no number.
        command: The first command of the header with this config; empty for configs of other programs.
    """

    name: str
    title: str
    encoder: str
    data: str
    hardware: str
    published: str
    measured: str
    command: str


def recipes() -> list[Recipe]:
    """All recipes, in the order of their names."""
    paths = sorted(path for path in CONFIGS.rglob("*.yaml") if "_base_" not in path.parts)
    return [read_recipe(path) for path in paths]


def read_recipe(path: Path) -> Recipe:
    """What a config and its header say."""
    lines = path.read_text(encoding="utf-8").split("\n")
    header = [line[1:] for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]
    text = " ".join(line.strip() for line in header if not line.startswith("   "))
    name = path.relative_to(CONFIGS).as_posix()
    commands = _commands(header)
    commands = [line for line in commands if path.stem in line or " --data " in line]
    settings = read_config_file(path)[0]
    # a clause ends with a sentence or a semicolon, but not inside brackets
    clauses = re.split(r"(?<=[.)])\s+(?=[A-Z])|;\s(?![^(]*\))", text)
    return Recipe(
        name=name,
        title=re.split(r"\.\s", text.strip())[0].rstrip("."),
        encoder=_encoder(settings),
        data=_data(path, settings),
        hardware=_hardware(text, commands, path),
        published=_published(text, clauses),
        measured=_measured(text, clauses),
        command=commands[0] if commands else "",
    )


def _values(node: Any, keys: tuple[str, ...], teachers: bool = False) -> Iterator[tuple[bool, str]]:  # noqa: ANN401
    """(whether it is a teacher's, text) of all entries with one of the keys."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        if str(key).lower() in keys and isinstance(value, str | dict):
            # a mapping describes an encoder: a released one with other options, or one that is none of them
            yield teachers, value if isinstance(value, str) else value.get("base", "small")
        yield from _values(value, keys, teachers or key == "teachers")


def _encoder(settings: dict[str, Any]) -> str:
    found = sorted(_values(settings.get("model") or settings.get("MODEL") or {}, ("variant", "model")))
    named = dict.fromkeys(name + " (teacher)" * is_teacher for is_teacher, name in found)
    if named:
        return ", ".join(named)
    kind = ((settings.get("model") or {}).get("backbone") or {}).get("type")
    return {"RawColor": "none"}.get(str(kind), "none" if kind is None and "tracking" in str(settings) else "small")


def _data(path: Path, settings: dict[str, Any]) -> str:
    if path.parent.name == "own":
        return "your own"
    if path.parent.name == "detectron2":
        return "COCO"
    if re.search(r"\bdemo/(data|words|small)\b", json.dumps(settings, default=str)):
        return "synthetic scenes"
    names = dict.fromkeys(re.findall(r"datasets/(\w+)\.yaml", _with_bases(path)))
    return ", ".join(dict.fromkeys(DATA[name] for name in names)) or "photographs"


def _with_bases(path: Path) -> str:
    """The text of a config and of its bases."""
    text = path.read_text(encoding="utf-8")
    section = re.search(r"^_base_:(.*?)(?=^\w|\Z)", text, re.MULTILINE | re.DOTALL)
    places = [path.parent / name for name in re.findall(r"[\w./-]+\.yaml", section[1] if section else "")]
    return "\n".join([section[1] if section else "", *(_with_bases(place) for place in places)])


def _commands(header: list[str]) -> list[str]:
    """Commands of ours in a header, continued lines joined and remarks left out."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(header))
    lines = [re.split(r"\s{3,}", line.strip())[0] for line in joined.split("\n") if line.startswith("   ")]
    ours = r"(COCO_ROOT=\S+ )?(pe-spatial|python|torchrun) .*(train|eval|track|sweep)"
    return [re.sub(r"\s+#.*", "", line) for line in lines if re.match(ours, line)]


def _hardware(text: str, commands: list[str], path: Path) -> str:
    if card := re.search(r"(\d+)[_ ]?gb\b", f"{path.stem} {text.partition('.')[0]}", re.IGNORECASE):
        return f"one card of {card[1]} GB"
    nodes = [re.search(r"--nnodes (\d+)", command) for command in commands[:1]]
    each = [re.search(r"--nproc-per-node (\d+)", command) for command in commands[:1]]
    if path.parent.name == "demo" or re.search(r"\bon a CPU\b|\bof one core\b", text):
        return "a CPU"
    if each and each[0]:
        return f"{int(each[0][1]) * (int(nodes[0][1]) if nodes[0] else 1)} GPUs"
    return "–"


def _published(text: str, clauses: list[str]) -> str:
    found = [clause for clause in clauses if re.search(r"publish|\bpaper\b", clause) and _NUMBER.search(clause)]
    return "none" if not found or re.search(_NONE, text) else _shown(found[0])


def _measured(text: str, clauses: list[str]) -> str:
    found = [clause for clause in clauses if re.search(r"\b[Mm]easured\b", clause) and _NUMBER.search(clause)]
    found = [clause for clause in found if not re.search(rf"{_NOT_MEASURED}|publish|paper", clause, re.IGNORECASE)]
    if found:
        return _shown(found[0])
    return "not measured" if re.search(_NOT_MEASURED, text, re.IGNORECASE) else "–"


def _shown(clause: str) -> str:
    return re.sub(r"^(Expect|Measured:) ", "", clause.strip()).rstrip(".")


def recipe_table() -> str:
    """A table for each task."""
    groups: dict[str, list[Recipe]] = {title: [] for title in FOLDERS.values()}
    for recipe in recipes():
        groups[FOLDERS[recipe.name.rpartition("/")[0]]].append(recipe)
    parts = []
    for title, found in groups.items():
        rows = [_row(recipe) for recipe in found]
        head = ["| recipe | encoder | data | for | published | measured here |", "|---|---|---|---|---|---|"]
        parts += [f"## {title}", "\n".join([*head, *rows])]
    return "\n\n".join(parts)


def _row(recipe: Recipe) -> str:
    cells = (
        f"`{recipe.name}`<br>{recipe.title}" + f"<br>`{recipe.command}`" * bool(recipe.command),
        recipe.encoder,
        recipe.data,
        recipe.hardware,
        recipe.published,
        recipe.measured,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
