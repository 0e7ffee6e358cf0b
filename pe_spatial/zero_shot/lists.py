"""Lists of classes and of templates: from the command line, a file of the user's own, or the package open_clip."""

from pathlib import Path

from pe_spatial.backbones.text.classes import NO_TEMPLATES, Prompts
from pe_spatial.backbones.text.vocabulary import INSTALL
from pe_spatial.common.errors import MissingPackage, OptionError
from pe_spatial.common.reading import read_text

IMAGENET = "imagenet"  # the list of 1000 names, and that of 80 templates
NONE = "none"  # no templates: the names alone
_PLACE = "{c}"


def read_prompts(classes: str, templates: str = NONE) -> Prompts:
    """Classes and templates from what `--classes` and `--templates` say.

    Args:
        classes: Names with commas between them; a `.txt` file or any existing file with one name per line; or
            `imagenet`.
        templates: A file with one sentence per line, each with the place `{c}` or `{}`; `imagenet`; or `none`.

    Raises:
        OptionError: A list that is empty or cannot be; see `Prompts`.
        UnreadableFile: A file is damaged or no text.
        MissingPackage: `imagenet` is asked for and open_clip is not installed.
    """
    known = classes == IMAGENET
    names = _imagenet()[0] if known else read_names(classes)
    return Prompts(names, read_templates(templates), repeated=known)


def read_names(classes: str) -> tuple[str, ...]:
    """The names that `--classes` gives, in its order; see `read_prompts`."""
    if _is_file(classes):
        return _lines(Path(classes), "class")
    return tuple(name.strip() for name in classes.split(",") if name.strip())


def read_templates(templates: str) -> tuple[str, ...]:
    """The sentences that `--templates` gives; see `read_prompts`."""
    if templates == NONE:
        return NO_TEMPLATES
    if templates == IMAGENET:
        return _imagenet()[1]
    return _lines(Path(templates), "template")


def _is_file(text: str) -> bool:
    return text.lower().endswith(".txt") or ("," not in text and Path(text).expanduser().is_file())


def _lines(path: Path, kind: str) -> tuple[str, ...]:
    """The lines of a file that are not blank."""
    path = path.expanduser()
    if not path.is_file():
        raise OptionError(f"there is no file {path}; write one {kind} per line into it")
    if not path.read_bytes().strip():
        raise OptionError(f"{path} is empty; write one {kind} per line")
    return tuple(line.strip() for line in read_text(path).splitlines() if line.strip())


def _imagenet() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """OpenAI's names of ImageNet's 1000 classes and its 80 templates, with which PE-Core is evaluated."""
    try:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
    except ModuleNotFoundError as error:
        raise MissingPackage(f"the ImageNet lists come from open_clip, which is not installed; {INSTALL}") from error
    return tuple(IMAGENET_CLASSNAMES), tuple(template(_PLACE) for template in OPENAI_IMAGENET_TEMPLATES)
