"""What an exported file says of itself: a JSON text in its own metadata, whatever its format.

* ONNX: the entry `pe_spatial` of `metadata_props`. It is found by walking over the outermost fields of the file, so the
  graph is not read (https://protobuf.dev/programming-guides/encoding, ModelProto of onnx.proto).
* OpenVINO: `pe_spatial` of the model's `rt_info`.
* torch.export (.pt2): the extra file `pe_spatial.json` in the archive.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from pe_spatial.common.errors import CheckpointError, MissingPackage
from pe_spatial.common.reading import open_regular

FORMAT_VERSION = 1
KEY = "pe_spatial"
EXTRA_FILE = "pe_spatial.json"
SUFFIXES = (".onnx", ".xml", ".pt2")
REJECTED = ".rejected"  # added to the name of a file that failed its proof

_METADATA_PROPS = 14
_LARGEST_TEXT = 64 * 2**20


@dataclass(frozen=True)
class Header:
    """What the file of a graph says of itself.

    Args:
        inputs: Names, in order; the first are normalized and padded images, float32 [B, 3, H, W].
        outputs: Names, in order.
        multiple: H and W are multiples of it.
        batch: B; None where it is open.
        size: (H, W); None where they are open.
        precision: fp32, fp16, bf16 or int8.
        kind: Which graph of the model, e.g. "raw"; an empty text for the one that stands in for its network.
        config: JSON of the resolved config.
        metainfo: Of the dataset: classes and colors.
        preprocessing: How pictures become inputs, for what runs without torch; see `pe_spatial.runtime`.
        source: `name` and `sha256` of what was exported.
        versions: Of the packages that have written it.
        format_version: Of this header.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    multiple: int
    batch: int | None
    size: tuple[int, int] | None
    precision: str
    kind: str
    config: str
    metainfo: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    source: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def gives_maps(self) -> bool:
        """Whether outputs of four dimensions show the images cell by cell; detections do not."""
        return "image_sizes" not in self.inputs

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str, path: Path) -> "Header":
        """Read what `text` has written.

        Args:
            text: JSON.
            path: For messages.

        Raises:
            CheckpointError: It is none, or of a newer version.
        """
        try:
            values = json.loads(text)
            version = values["format_version"]
            if version > FORMAT_VERSION:
                raise CheckpointError(
                    f"{path}: its header has format {version}, newer than {FORMAT_VERSION}; update pe_spatial"
                )
            known = {entry.name: values[entry.name] for entry in fields(cls)}
            lists = {name: tuple(known[name]) for name in ("inputs", "outputs")}
            size = None if known["size"] is None else (int(known["size"][0]), int(known["size"][1]))
            return cls(**{**known, **lists, "size": size})
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise CheckpointError(f"{path}: its header is damaged ({error!r}); export it again") from error


def is_exported(path: str | Path) -> bool:
    """Whether the name of a file is that of an exported graph, or of one that failed its proof."""
    return str(path).removesuffix(REJECTED).endswith(SUFFIXES)


def read_header(path: str | Path) -> Header:
    """The header of an exported file.

    Raises:
        CheckpointError: There is no such file, it failed its proof, is damaged, or was written by something else.
        MissingPackage: What reads its format is not installed.
    """
    path = Path(path)
    if path.name.endswith(REJECTED):
        raise CheckpointError(
            f"{path}: this file failed its proof (see PROOF.json beside it) and is not run; export it again with "
            "--repair, or with a higher --precision"
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    text = {".onnx": _of_onnx, ".xml": _of_openvino, ".pt2": _of_archive}[path.suffix](path)
    if not text:
        raise CheckpointError(
            f"{path}: has no entry {KEY!r} in its metadata, so it was not written by pe-spatial export; its classes "
            "and preprocessing are not known; export the model with pe-spatial export"
        )
    return Header.parse(text, path)


# --- ONNX -------------------------------------------------------------------------------------------------------------
def _of_onnx(path: Path) -> str:
    try:
        with open_regular(path) as file:
            for entry in _long_fields(file, path.stat().st_size, _METADATA_PROPS):
                pair = dict(_fields_of(entry))
                if pair.get(1, b"").decode() == KEY:
                    return pair.get(2, b"").decode()
    except (EOFError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: is damaged or truncated ({error}); copy it again, or export it again"
        ) from error
    return ""


def _long_fields(file: IO[bytes], length: int, wanted: int) -> Iterator[bytes]:
    """The contents of fields of a number in a message that ends at a byte; others are passed over."""
    while file.tell() < length:
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _varint(file)
        elif kind in (1, 5):
            file.seek(8 if kind == 1 else 4, 1)
        elif kind == 2:
            size = _varint(file)
            if file.tell() + size > length or (number == wanted and size > _LARGEST_TEXT):
                raise EOFError(f"a field of {size:,} bytes does not fit into the file")
            if number == wanted:
                yield file.read(size)
            else:
                file.seek(size, 1)
        else:
            raise EOFError(f"byte {file.tell():,} begins no field")


def _fields_of(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of the texts of a short message."""
    place = 0
    while place < len(message):
        tag, place = message[place], place + 1
        size = shift = 0
        while True:
            byte = message[place]
            size, place, shift = size | (byte & 127) << shift, place + 1, shift + 7
            if byte < 128:
                break
        yield tag >> 3, message[place : place + size]
        place += size


def _varint(file: IO[bytes]) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise EOFError("it ends inside a number")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
        shift += 7


# --- the others -------------------------------------------------------------------------------------------------------
def _of_openvino(path: Path) -> str:
    try:
        from openvino import Core
    except ImportError:
        raise MissingPackage(f"{path}: OpenVINO reads it, which is not installed; pip install openvino") from None
    try:
        model = Core().read_model(path)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-200:]
        raise CheckpointError(f"{path}: OpenVINO cannot read it ({reason}); is the .bin file beside it?") from error
    return str(model.get_rt_info([KEY]).astype(str)) if model.has_rt_info([KEY]) else ""


def _of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/{EXTRA_FILE}")]
            return archive.read(names[0]).decode() if names else ""
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: is damaged or not an archive ({error}); export it again") from error
