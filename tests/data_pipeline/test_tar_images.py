import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image

from pe_spatial.common.archives import read_index
from pe_spatial.common.errors import UnreadableFile
from pe_spatial.data import DrawSampler, ImageFolder, TarImages

PIPELINE = [{"type": "LoadImage"}, {"type": "PackSample"}]


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path):
    """Three images in each of two shards, with their captions and masks, as WebDataset lays them out."""
    for shard, numbers in (("train-2.tar", (0, 1, 2)), ("train-10.tar", (3, 4, 5))):
        members = {}
        for number in numbers:
            members |= {f"deep/{number}.png": png(40 * number), f"deep/{number}.mask.png": png(1)}
            members |= {f"deep/{number}.txt": b"a caption", f"deep/._{number}.png": b"rubbish of a file manager"}
        write_tar(tmp_path / shard, members)
    return tmp_path


def values(dataset):
    return [int(dataset[n]["inputs"][0, 0, 0]) for n in range(len(dataset))]


def test_the_images_of_all_shards_in_their_order(shards):
    dataset = DATASETS.build({"type": "TarImages", "source": str(shards), "pipeline": PIPELINE, "test_mode": True})
    assert values(dataset) == [0, 40, 80, 120, 160, 200]
    packed = dataset[4]
    assert packed["inputs"].shape == (3, 4, 6)
    assert packed["data_samples"].img_id == 4
    assert packed["data_samples"].img_path == f"{shards}/train-10.tar/deep/4.png"


def test_extensions_choose_the_part_of_a_sample(shards):
    masks = TarImages(shards / "train-2.tar", extensions=["mask.png"], pipeline=PIPELINE)
    assert values(masks) == [1, 1, 1]
    with pytest.raises(FileNotFoundError, match=r"train-2\.tar: no member with the extension webp among deep/0\.png"):
        TarImages(f"{shards}/train-2*.tar", extensions=["webp"])


def test_a_stream_of_draws_goes_on_anywhere_and_is_that_of_a_folder(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    for number in range(6):
        (folder / f"{number}.png").write_bytes(png(40 * number))
    tars, files = TarImages(shards, pipeline=PIPELINE), ImageFolder(folder, pipeline=PIPELINE)

    def drawn(dataset, skipped, count):
        sampler = DrawSampler(dataset, seed=3)
        sampler.skip(skipped)
        stream = iter(sampler)
        return [int(dataset[next(stream)]["inputs"][0, 0, 0]) for _ in range(count)]

    whole = drawn(tars, 0, 15)
    assert sorted(whole[:6]) == [0, 40, 80, 120, 160, 200]
    assert drawn(tars, 8, 7) == whole[8:]
    assert drawn(files, 0, 15) == whole


def test_the_index_is_written_once_and_again_when_the_tar_has_changed(shards):
    tar = shards / "train-2.tar"
    members = read_index(tar)
    index = shards / "train-2.tar.index.json"
    name, offset, size = members[0]
    assert tar.read_bytes()[offset : offset + size] == png(0)
    written = index.stat().st_mtime_ns
    assert read_index(tar) == members
    assert index.stat().st_mtime_ns == written
    index.write_text("[1, 2")
    assert read_index(tar) == members
    write_tar(tar, {"7.png": png(7)})
    assert [name for name, _, _ in read_index(tar)] == ["7.png"]
    assert json.loads(index.read_text())["members"][0][0] == "7.png"


def test_an_index_may_lie_elsewhere_or_nowhere(shards, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("indices")
    dataset = TarImages(shards, index_folder=elsewhere / "new", pipeline=PIPELINE)
    assert sorted(os.listdir(elsewhere / "new")) == ["train-10.tar.index.json", "train-2.tar.index.json"]
    assert not list(shards.glob("*.json"))
    (elsewhere / "file").touch()
    assert TarImages(shards, index_folder=elsewhere / "file", pipeline=PIPELINE).identities() == dataset.identities()


def test_what_is_no_plain_whole_tar_is_named(shards):
    whole = (shards / "train-2.tar").read_bytes()
    (shards / "packed.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(UnreadableFile, match=r"packed\.tar is no.*gunzip"):
        TarImages(shards / "packed.tar")
    _, offset, _ = read_index(shards / "train-2.tar")[-1]
    (shards / "cut.tar").write_bytes(whole[: offset + 10])
    with pytest.raises(UnreadableFile, match=r"cut\.tar is not a complete.*unexpected end.*copy"):
        TarImages(shards / "cut.tar")
    with pytest.raises(FileNotFoundError, match="no tar file"):
        TarImages(shards / "none-*.tar")


def test_a_damaged_image_is_named_with_its_tar(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2)[:-30]})
    dataset = TarImages(tar, pipeline=PIPELINE, unreadable="skip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert int(dataset[1]["inputs"][0, 0, 0]) == 1
    assert dataset.unreadable_indices == [1]
    with pytest.raises(UnreadableFile, match=r"a\.tar/2\.png cannot be read"):
        TarImages(tar, pipeline=PIPELINE)[1]


def test_a_list_of_images_can_be_told_from_another_wherever_it_lies(shards, tmp_path_factory):
    tars = TarImages(shards)
    assert tars.identities()[3] == ("train-10.tar/deep/3.png", len(png(120)))
    folder = tmp_path_factory.mktemp("unpacked")
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png(3))
    identities = ImageFolder(folder).identities()
    assert identities == [(name, len(png(3))) for name in ("a/1.png", "a/2.png", "b/1.png")]
    moved = folder.rename(folder.parent / "moved")
    assert ImageFolder(moved).identities() == identities
    assert ImageFolder(f"{moved}/**/*.png", indices=[1]).identities() == identities  # a part keeps its numbers
    (moved / "b/1.png").write_bytes(png(3) + b"0")
    assert ImageFolder(moved).identities() != identities


def test_an_image_folder_takes_tars_too(shards):
    assert ImageFolder(shards).identities() == TarImages(shards).identities()
    assert values(ImageFolder(shards / "train-2.tar", pipeline=PIPELINE)) == [0, 40, 80]
    (shards / "1.png").write_bytes(png(0))
    assert ImageFolder(shards).identities() == [("1.png", len(png(0)))]  # loose files come before tars
    assert len(TarImages(shards)) == 6


def test_names_in_tars_stay_as_they_are_written_there(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {"./1.png": png(1)})
    assert ImageFolder(tar).identities() == TarImages(tar).identities() == [("a.tar/./1.png", len(png(1)))]


def test_a_step_of_the_pipeline_may_refuse_a_dataset(shards):
    class Picky:
        def check_dataset(self, dataset):
            raise ValueError(f"{len(dataset)} images are too many")

        def __call__(self, sample):
            return sample

    with pytest.raises(ValueError, match="6 images are too many"):
        TarImages(shards, pipeline=[Picky()])
