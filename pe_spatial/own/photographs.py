"""The photographs of an alignment: all pictures of a folder or a list, or those that a dataset names; no labels."""

from pathlib import Path

from pe_spatial.common.errors import OptionError
from pe_spatial.common.sources import resolve_sources
from pe_spatial.data.formats import Reading, choose, recognize
from pe_spatial.own.data import HELD_OUT, Data, Section, coco_section, held_out, roles
from pe_spatial.own.request import Request

_MOST_HELD_OUT = 500  # photographs of a folder: a mean over more of them tells no more


def find_photographs(request: Request, recipe: Section) -> Data:
    """The photographs of a request.

    Args:
        request: Of an alignment.
        recipe: Whose pipelines the photographs go through.

    Raises:
        AnnotationError: A dataset that can be read in several ways.
        OptionError: The parts cannot be told apart, or the run would lie among the photographs.
        FileNotFoundError: It does not exist, or holds no picture.
    """
    path = Path(request.data).expanduser().absolute()
    if request.format is None and not (path.exists() and recognize(path)):
        return _folder(request, path, recipe)
    reading = choose(path, request.format)
    train, val, lines = roles(reading, request.split)
    sections = [_section(reading, path, part) for part in (train, val or train)]
    if val is None:
        sections, line = held_out(sections[0], train, HELD_OUT, request.seed)
        lines.append(line)
    return _data(sections, recipe, lines)


def _folder(request: Request, path: Path, recipe: Section) -> Data:
    """Pictures that nothing describes."""
    if request.split is not None:
        raise OptionError(f"split {request.split}: {path} has no splits; remove split")
    output = Path(request.output or "work_dirs").expanduser().absolute()
    if path.is_dir() and output.is_relative_to(path):
        raise OptionError(
            f"output {output} is inside the photographs of {path}, so the pictures of the run would be used for "
            "training; give a folder outside (--output)"
        )
    count = len(resolve_sources(str(path), ("image",)))
    share = min(HELD_OUT, round(_MOST_HELD_OUT / count, 6))
    section = {"type": "ImageFolder", "source": str(path)}
    sections, line = held_out(section, f"{count:,} photographs", share, request.seed)
    return _data(sections, recipe, [f"data: {path}: {count:,} photographs, without labels", line])


def _section(reading: Reading, path: Path, split: str) -> Section:
    """The dataset section of the pictures of a split."""
    if reading.load is None:
        return {"type": "ImageFolder", "source": str(reading.folders[split])}
    return {**coco_section(reading, path, split), "keep_empty": True}


def _data(sections: list[Section], recipe: Section, lines: list[str]) -> Data:
    """Sections that stand for themselves, for recipes name another type of data."""
    train, val = (
        {"_delete_": True, **section, "pipeline": recipe[f"{part}_dataloader"]["dataset"]["pipeline"]}
        for section, part in zip(sections, ("train", "val"), strict=True)
    )
    return Data({**train, "unreadable": "skip"}, {**val, "test_mode": True}, tuple(lines))
