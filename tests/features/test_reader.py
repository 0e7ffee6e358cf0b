"""What is read back is what the extractor gives, in every format, and every file says the rule."""

import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from feature_scenes import run
from safetensors import safe_open

from pe_spatial.common.errors import UnknownName, UnreadableFile, UserError
from pe_spatial.common.video import VideoReader
from pe_spatial.features import FeatureExtractor, open_features

FORMATS = ("safetensors", "npy", "tar", "zarr")
RULE = {"encoder", "weights", "settings", "layers", "mean", "std", "image_size", "resize", "interpolation"}
FACTS = {"file_name", "source_size", "size", "grid"}


@pytest.fixture(params=FORMATS)
def kind(request):
    if request.param == "zarr":
        pytest.importorskip("zarr")
    return request.param


def expected(photos, **options):
    """The features of all pictures and frames by their names, one by one."""
    torch.manual_seed(0)
    extractor = FeatureExtractor("tiny", weights="none", layers=[0, 2], device="cpu", **options)
    found = {path.relative_to(photos).as_posix(): extractor(path) for path in photos.rglob("*.png")}
    with VideoReader(photos / "film.mp4") as video:
        found |= {f"film.mp4/{frame.number:06d}": extractor(frame.image) for frame in video}
    return found


@pytest.mark.parametrize("options", [{}, {"form": "tokens", "dtype": "fp32"}, {"pool": "mean"}])
def test_every_format_gives_back_what_was_extracted(kind, options, photos, tmp_path):
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    assert run(photos, tmp_path / "out", "--format", kind, "--layers", "0,2", "--batch-size", "2", *words) == 0
    features = open_features(tmp_path / "out")
    whole = expected(photos, **{"dtype": "fp16", **options})
    assert list(features) == list(features.names) and set(features) == set(whole)
    for name, layers in whole.items():
        for layer, values in layers.items():
            array = features[name][layer]
            assert array.dtype == values.numpy().dtype
            # a batch may differ in the last digit from one picture
            torch.testing.assert_close(torch.from_numpy(np.array(array)), values, rtol=2e-3, atol=2e-3)
            assert kind == "zarr" or isinstance(array, np.memmap)
    assert features.rule["layers"] == [0, 2] and set(features.rule) > RULE
    by_name = {entry["file_name"]: entry for entry in features.entries}
    assert by_name["a1.png"]["source_size"] == [20, 32] and by_name["a1.png"]["size"] == [64, 104]
    assert by_name["a1.png"]["grid"] == {"layer_0": [8, 13], "layer_2": [8, 13]}
    times = [entry["time"] for entry in features.entries if "frame" in entry]
    assert times == pytest.approx([0, 0.1, 0.2])


def rules_in(output, kind):
    """The rule with the facts of a picture, of every file."""
    folder = output / "features"
    if kind == "safetensors":
        for path in folder.rglob("*.safetensors"):
            with safe_open(path, "np") as file:
                yield json.loads(file.metadata()["pe_spatial"])
    elif kind == "npy":
        yield from (json.loads(path.with_suffix(".json").read_text()) for path in folder.rglob("*.npy"))
    else:
        for path in folder.glob("*.tar"):
            with tarfile.open(path) as tar:
                yield from (json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json"))


@pytest.mark.parametrize("kind", ["safetensors", "npy", "tar"])
def test_the_rule_stands_in_every_file(kind, photos, tmp_path):
    assert run(photos, tmp_path / "out", "--format", kind) == 0
    rules = list(rules_in(tmp_path / "out", kind))
    assert len(rules) == 9 and all(set(rule) > RULE | FACTS for rule in rules)
    assert sorted(rule["time"] for rule in rules if "frame" in rule) == pytest.approx([0, 0.1, 0.2])


def test_tars_are_as_webdataset_reads_them(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "in")
    (tmp_path / "in/a1.png").rename(tmp_path / "in/a.1.png")  # the key ends at the first dot
    shutil.copy(tmp_path / "in/a3.png", tmp_path / "in/a_1.png")
    assert run(tmp_path / "in", tmp_path / "out", "--format", "tar", "--layers", "1,2", "--tar-pictures", "4") == 0
    tars = sorted((tmp_path / "out/features").glob("*.tar"))
    assert [path.name for path in tars] == [f"features-00000{number}.tar" for number in range(len(tars))]
    keys = []
    for path in tars:
        with tarfile.open(path) as tar:
            names = tar.getnames()
        for start in range(0, len(names), 3):  # the members of a key follow each other
            key = names[start].partition(".")[0]
            assert names[start : start + 3] == [f"{key}.layer_1.npy", f"{key}.layer_2.npy", f"{key}.json"]
            keys.append(key)
    assert len(set(keys)) == len(keys) == 10
    features = open_features(tmp_path / "out")
    assert features["a_1.png"]["layer_1"].tolist() == features["a3.png"]["layer_1"].tolist()
    assert features["a.1.png"]["layer_1"].shape != features["a3.png"]["layer_1"].shape


def test_pictures_of_one_size_are_one_array_of_zarr(photos, tmp_path):
    zarr = pytest.importorskip("zarr")
    images = photos / "*.png"
    assert run(images, tmp_path / "out", "--format", "zarr", "--resize", "square", "--layers", "0,2") == 0
    group = zarr.open_group(tmp_path / "out/features.zarr", mode="r")
    assert group["layer_2"].shape == (3, 32, 8, 8) and group.attrs["names"] == ["a1.png", "a3.png", "a5.png"]
    assert set(group.attrs["pe_spatial"]) > RULE
    features = open_features(tmp_path / "out")
    assert np.array_equal(features.stack("layer_2"), group["layer_2"][...])


def test_bf16_comes_back_as_float32(photos, tmp_path):
    assert run(photos, tmp_path / "out", "--dtype", "bf16", "--layers", "0,2") == 0
    features = open_features(tmp_path / "out")
    for name, layers in expected(photos, dtype="bf16").items():
        values = features[name]["layer_2"]
        assert values.dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(values), layers["layer_2"].float(), rtol=2e-2, atol=1e-2)


def test_what_is_not_there_is_named(photos, tmp_path):
    assert run(photos, tmp_path / "out", "--pool", "cls", "--layers", "0,2") == 0
    features = open_features(tmp_path / "out")
    assert features.stack("layer_2").shape == (9, 32)
    with pytest.raises(UnknownName, match="did you mean 'a1.png'"):
        features["a1.jpg"]
    with pytest.raises(UnknownName, match="layer None is not one of layer_0, layer_2"):
        features.stack()
    with pytest.raises(UnreadableFile, match="features.json: no such file; pe-spatial features writes it"):
        open_features(tmp_path)
    path = tmp_path / "out/features/a1.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UnreadableFile, match="the features of a1.png cannot be read"):
        features["a1.png"]
    path.unlink()
    with pytest.raises(UnreadableFile, match="the features of a1.png cannot be read"):
        features["a1.png"]
    assert run(photos, tmp_path / "maps") == 0
    with pytest.raises(UserError, match="cannot be stacked; pool them"):
        open_features(tmp_path / "maps").stack()
