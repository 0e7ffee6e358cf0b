"""OpenAI's vocabulary of word pieces: which installed package ships the file, and whether it is the right one.

The file is `bpe_simple_vocab_16e6.txt.gz` of https://github.com/openai/CLIP (MIT).
"""

import gzip
import hashlib
import os
import zlib
from importlib.util import find_spec
from pathlib import Path

from pe_spatial.common.errors import MissingPackage, UnreadableFile

FILE_NAME = "bpe_simple_vocab_16e6.txt.gz"
PATH_VARIABLE = "PE_SPATIAL_VOCABULARY"
INSTALL = "pip install 'pe_spatial[text]'"
# of the content: what packs it may stamp another time
SHA256 = "67603cfda2e032ad77b5f8808af37789d590db664b26df8705d2bf8b3c553fc8"

_PLACES = {"open_clip": FILE_NAME, "mmseg": f"utils/{FILE_NAME}"}
_MERGES = 49152 - 256 - 2  # that CLIP uses of those in the file, after its first line


def find_vocabulary(path: str | Path | None = None) -> Path:
    """Where the file lies.

    Args:
        path: A file of the user's own; None takes the one that the environment variable `PE_SPATIAL_VOCABULARY` names,
            else that of an installed package.

    Raises:
        FileNotFoundError: The named file does not exist.
        MissingPackage: No installed package ships the file.
    """
    named = path or os.environ.get(PATH_VARIABLE)
    if named:
        file = Path(named).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"no vocabulary at {file}; give an existing {FILE_NAME} or {INSTALL}")
        return file
    for package, place in _PLACES.items():
        spec = find_spec(package)  # finds the folder of a package without importing it
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (file := Path(folder, place)).is_file():
                return file
    raise MissingPackage(
        f"texts need the vocabulary {FILE_NAME}, which is part of the packages {' and '.join(_PLACES)}; neither "
        f"is installed; {INSTALL}, or set {PATH_VARIABLE} to the path of that file"
    )


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of pieces that are joined, the first ones first.

    Args:
        path: The file, compressed or not.

    Raises:
        UnreadableFile: It is damaged or another vocabulary.
    """
    content = path.read_bytes()
    try:
        text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFile(f"{path} is damaged ({error}); download it again") from error
    found = hashlib.sha256(text).hexdigest()
    if found != SHA256:
        raise UnreadableFile(
            f"{path} is not the vocabulary of PE-Core: the SHA-256 of its content is {found[:12]}…, not {SHA256[:12]}…"
            f"; take {FILE_NAME} of OpenAI's CLIP, or {INSTALL}"
        )
    lines = text.decode().split("\n")[1 : _MERGES + 1]
    return [(first, second) for first, second in map(str.split, lines)]
