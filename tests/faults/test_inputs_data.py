"""Files of data that say more than they hold: arrays, JSON, YAML, masks and tars. Each is refused by a line."""

import io
import struct
import sys
import tarfile

import bad_files as bad
import pytest
from watched import Watched

from pe_spatial.common.archives import read_images
from pe_spatial.common.errors import UserError
from pe_spatial.common.pictures import read_image
from pe_spatial.common.sources import resolve_sources
from pe_spatial.data.annotations import read_annotations
from pe_spatial.data.loading import decode_mask, encode_masks
from pe_spatial.depth.loading import read_depth
from pe_spatial.training.config import load_config


def npy(shape, kind="'<f4'", content=b"", version=1):
    """A file of numpy with that header."""
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + content


def aliases(form):
    """Nine anchors, each of nine times the one before."""
    letters = "abcdefghij"
    lines = ["a: &a {x: 1}"]
    for before, letter in zip(letters, letters[1:], strict=False):
        lines.append(f"{letter}: &{letter} {form.format(','.join([f'*{before}'] * 9))}")
    return "\n".join(lines).encode()


def tar(**fields):
    """A tar of one image in whose header some bytes are others."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = 10
        archive.addfile(member, io.BytesIO(bytes(10)))
    data = bytearray(buffer.getvalue())
    for name, content in fields.items():
        place = {"size": 124, "type": 156}[name]
        data[place : place + len(content)] = content
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def huge(size):
    return b"\x80" + size.to_bytes(11, "big")


def depth(path):
    return read_depth(path, 1.0)


FILES = {  # name: (reader, content, part of the message)
    "terabytes.npy": (depth, npy((2**20, 2**20)), "more than the"),
    "numbers.npy": (depth, npy((10**30, 10)), "more than the"),
    "cut.npy": (depth, npy((100, 100)), "40,000 bytes, but the file has 0"),
    "negative.npy": (depth, npy((-1, 10)), "is not a depth map"),
    "nothing.npy": (depth, npy((0, 0)), "is not a depth map"),
    "objects.npy": (depth, npy((2, 2), "'|O'", bytes(99)), "array of object"),
    "pickle.npy": (depth, b"cos\nsystem\n(S'true'\ntR.", "magic string"),
    "zip.npy": (depth, b"PK\3\4" + bytes(99), "magic string"),
    "records.npy": (depth, npy((2, 2), "[('a', '<f4')]", bytes(99)), "of numbers"),
    "text.npy": (depth, npy((2, 2), "'<U5'", bytes(99)), "of numbers"),
    "complex.npy": (depth, npy((2, 2), "'<c8'", bytes(99)), "of numbers"),
    "header.npy": (depth, b"\x93NUMPY\2\0" + struct.pack("<I", 2**31), "header is longer"),
    "deep.json": (read_annotations, b"[" * 200_000, "lists are nested"),
    "keys.json": (read_annotations, b'{"a":' * 200_000, "lists are nested"),
    "digits.json": (read_annotations, b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
    "bytes.json": (read_annotations, b"\xff\xfe\xff", "not JSON"),
    "lists.yaml": (load_config, aliases("[{}]"), "expand to more than"),
    "merged.yaml": (load_config, aliases("{{<<: [{}]}}"), "expand to more than"),
    "deep.yaml": (load_config, b"a: " + b"[" * 20_000, "nested too deep"),
    "sections.yaml": (load_config, b"a: " + b"{a: " * 5000, "nested too deep"),
    "itself.yaml": (load_config, b"a: &a [*a]", "contains itself"),
    "digits.yaml": (load_config, b"max: " + b"1" * 6000, "digits"),
    "bytes.yaml": (load_config, b"a: \xff", "save it as UTF-8"),
    "huge.tar": (read_images, tar(size=huge(2**60)), "not a complete, uncompressed tar"),
    "negative.tar": (read_images, tar(size=b"\xff" * 12), "not a complete, uncompressed tar"),
    "octal.tar": (read_images, tar(size=b"77777777777\0"), "not a complete, uncompressed tar"),
    "pax.tar": (read_images, tar(size=huge(2**62), type=b"x"), "not a complete, uncompressed tar"),
    "name.tar": (read_images, tar(size=huge(2**40), type=b"L"), "not a complete, uncompressed tar"),
}
MASKS = {
    "far": [[1e12, 0, 0, 1e12, 5, 5]],
    "further": [[1e300, 0, 0, 1, 5, 5]],
    "infinite": [[float("inf"), 1, 2, 3, 4, 5]],
    "no number": [[float("nan")] * 6],
    "32 bits": [[2**31, 0, 0, 2**31, 2**31, 5]],
    "back and forth": [[0, 0, 60, 60] * 10_000],
    "no polygon": [],
    "short runs": {"size": [8, 8], "counts": "0" * 5},
    "no runs": {"size": [8, 8], "counts": ""},
    "damaged runs": {"size": [8, 8], "counts": "o" * 10},
    "endless run": {"size": [8, 8], "counts": "P" * 100_000},
    "negative run": {"size": [8, 8], "counts": [-64, 128]},
    "long run": {"size": [8, 8], "counts": [2**32 + 64]},
    "absurd size": {"size": [10**9, 10**9], "counts": [10**18]},
    "number of runs": {"size": [8, 8], "counts": 10**12},
}


@pytest.fixture(scope="module")
def watched():
    with Watched(seconds=60) as run:
        yield run


def refusal(read, *arguments):
    """0, and the message written, where a line says what is wrong; 1 where the file is taken."""
    try:
        read(*arguments)
    except UserError as error:
        sys.stdout.write(f"{error}\n")
        return 0
    return 1


def mask_refusal(segmentation):
    try:
        decode_mask(segmentation, (8, 8))
    except (ValueError, OverflowError):
        return 0
    return 1


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_says_more_than_it_holds_is_refused(watched, tmp_path, name):
    read, content, says = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    outcome = watched(refusal, read, path)
    assert outcome.status == 0, outcome
    (line,) = outcome.out.splitlines()
    assert str(path) in line and says in line
    assert [item.name for item in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "read"),
    [("a.json", read_annotations), ("a.yaml", load_config), ("a.npy", depth), ("a.txt", resolve_sources)],
    ids=["json", "yaml", "npy", "txt"],
)
def test_nothing_waits_for_a_pipe_or_reads_terabytes(watched, tmp_path, name, read):
    bad.sparse(tmp_path / name)
    outcome = watched(refusal, read, tmp_path / name)
    assert outcome.status == 0 and name in outcome.out
    (tmp_path / name).unlink()
    bad.os.mkfifo(tmp_path / name)
    outcome = watched(refusal, read, tmp_path / name)
    assert outcome.status == 0 and name in outcome.out


@pytest.mark.parametrize("name", MASKS)
def test_masks_that_the_c_code_would_crash_on_are_refused(watched, name):
    assert watched(mask_refusal, MASKS[name]).status == 0


def test_an_image_in_a_tar_that_has_shrunk_is_named(tmp_path):
    picture = bad.encoded("PNG")
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(512) + picture)
    assert read_image("a/b.png", archive=(str(path), 512, len(picture))).shape == (3, 16, 16)
    for part in ((512, 10**12), (2**40, 5), (-1, 5), (512, -5)):
        with pytest.raises(UserError, match=r"a/b.png cannot be read: the file ends"):
            read_image("a/b.png", archive=(str(path), *part))


def test_every_mask_that_coco_encodes_passes():
    import torch

    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        height, width = torch.randint(1, 50, (2,), generator=generator).tolist()
        share = torch.rand(1, generator=generator)
        masks = torch.rand(1, height, width, generator=generator) < share
        (rle,) = encode_masks(masks)
        assert (decode_mask(rle, (height, width)) == masks[0].numpy()).all()
    (rle,) = encode_masks(torch.ones(1, 1500, 1500))
    assert decode_mask(rle, (1500, 1500)).all()
