import os
import re
import socket
import sys
import tarfile

import numpy as np
import pytest
import torch
from children import CONTEXT
from PIL import Image
from torch import nn
from torch.nn import functional as F

from pe_spatial.alignment import sam_teacher
from pe_spatial.alignment.cache import CacheError, TeacherCache
from pe_spatial.alignment.loading import LoadTeacherMap
from pe_spatial.commands.shell import run_command
from pe_spatial.data import LoadImage, PackSample, TarImages


class PatchColors(nn.Module):
    """Stands in for SAM: three channels, the mean color of every patch."""

    asked = 0

    def __init__(self, weights, size, image_size, **options):
        super().__init__()
        self.register_buffer("statistics", torch.zeros(1))
        self.options = {"size": size, "weights_sha256": str(weights), **options}

    def describe(self):
        return self.options

    def forward(self, images, data_samples, grid):
        PatchColors.asked += 1
        return F.adaptive_avg_pool2d(images, grid)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


@pytest.fixture(autouse=True)
def no_sam(monkeypatch):
    monkeypatch.setattr(sam_teacher, "MaskLogitTeacher", PatchColors)
    PatchColors.asked = 0


def arguments(root, *more):
    base = ["--input", str(root / "photos"), "--output", str(root / "cache"), "--grid", "2", "3", "--device", "cpu"]
    return [*base, "--shard-images", "2", *more]


def run(root, *more):
    return run_command("cache-teacher", arguments(root, *more))


def test_it_computes_once_what_training_reads(photos, capsys):
    assert run(photos) == 0
    said = capsys.readouterr()
    assert "5 images" in said.out
    assert "on average" in said.out
    assert "0 of 3 shards are finished" in said.err
    assert PatchColors.asked == 5
    image = torch.from_numpy(np.array(Image.open(photos / "photos/3.png"))).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = F.adaptive_avg_pool2d(image, (2, 3))[0]
    cache = TeacherCache(photos / "cache")
    torch.testing.assert_close(cache.read(3), expected, atol=float(expected.abs().max()) / 100, rtol=0)
    assert run(photos) == 0
    assert PatchColors.asked == 5
    assert "3 of 3 shards are finished" in capsys.readouterr().err


def test_damage_is_named_and_repaired_on_request(photos, capsys):
    run(photos)
    path = TeacherCache(photos / "cache").path(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert run(photos) == 2
    assert re.search(r"maps-000001\.safetensors is damaged \(truncated.*--repair", capsys.readouterr().err)
    assert run(photos, "--repair") == 0
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # the last byte is of a scale: sizes are right
    assert run(photos) == 0
    assert run(photos, "--verify") == 2
    assert "the checksum of image" in capsys.readouterr().err
    assert run(photos, "--verify", "--repair") == 0
    assert path.read_bytes() == whole
    assert PatchColors.asked == 5 + 2 + 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--weights", "other.pt"], "teacher.weights_sha256: 'None' → 'other.pt'"),
        (["--kept", "best"], "teacher.kept: 'stable' → 'best'"),
        (["--grid", "2"], r"grid\.1: 3 → 2"),
        (["--bf16"], "teacher.precision: 'float32' → 'bfloat16'"),
    ],
)
def test_other_settings_are_refused(photos, capsys, more, message):
    run(photos)
    assert run(photos, *more) == 2
    assert re.search(message, capsys.readouterr().err)


def test_unreadable_images_stop_it_or_are_left_out(photos, capsys):
    (photos / "photos/2.png").write_bytes(b"no image")
    assert run(photos) == 2
    assert "2.png cannot be read" in capsys.readouterr().err
    assert len(TeacherCache(photos / "cache").missing()) == 2
    assert run(photos, "--skip-unreadable") == 1
    assert TeacherCache(photos / "cache").missing() == []
    assert run_command("cache-teacher", ["--images", str(photos / "none"), "--output", str(photos / "cache")]) == 2


def test_a_tar_gives_the_maps_of_its_images(photos):
    with tarfile.open(photos / "photos.tar", "w") as tar:
        for path in sorted((photos / "photos").iterdir()):
            tar.add(path, path.name)
    run(photos)
    assert run(photos, "--input", str(photos / "photos.tar"), "--output", str(photos / "of_tar")) == 0
    pipeline = [LoadImage(), LoadTeacherMap(str(photos / "of_tar")), PackSample()]
    for number, packed in enumerate(TarImages(photos / "photos.tar", pipeline=pipeline)):
        maps = packed["data_samples"].mask_logits.data
        assert torch.equal(maps, TeacherCache(photos / "cache").read(number))
    with pytest.raises(CacheError, match=r"0\.png .* in the cache and photos\.tar/0\.png"):
        TarImages(photos / "photos.tar", pipeline=[LoadImage(), LoadTeacherMap(str(photos / "cache"))])


def rank(number, port, root):
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES="")
    sam_teacher.MaskLogitTeacher = PatchColors
    status = run(root)
    torch.distributed.destroy_process_group()
    sys.exit(status + (10 if PatchColors.asked == 0 else 0))


def test_processes_share_the_shards(photos, tmp_path_factory):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = [CONTEXT.Process(target=rank, args=(number, port, photos)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    together = (photos / "cache").rename(photos / "together")
    run(photos)
    for path in sorted((photos / "cache").iterdir()):
        assert path.read_bytes() == (together / path.name).read_bytes()
