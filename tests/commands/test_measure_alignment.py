"""The probe and the table of tools/dev/measure_alignment.py, and the encoder that it starts from."""

import make_demo_encoder
import measure_alignment
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pe_spatial.backbones import PEBackbone
from pe_spatial.commands.shell import run_command, run_module
from pe_spatial.common.tensors import read_tensor_file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "data"
    arguments = ["--images", "12", "--image-size", "48", "--formats", "labels", "--no-photographs"]
    assert run_command("demo", ["--output", str(folder), *arguments]) == 0
    return folder


class Colors(torch.nn.Module):
    """A backbone whose tokens are pixels."""

    def forward(self, images):
        return (images,)


def test_a_probe_reads_what_the_tokens_say(data, monkeypatch):
    def described(truthful):
        def describe(backbone, folder, split, limit):
            labels = torch.stack([torch.full((8, 8), number % 5) for number in range(10)])
            maps = F.one_hot(labels, 5).movedim(-1, 1).float() if truthful else torch.zeros(10, 3, 8, 8)
            return maps + 1e-3 * torch.randn(maps.shape), labels

        return describe

    torch.manual_seed(0)
    monkeypatch.setattr(measure_alignment, "describe", described(truthful=True))
    assert measure_alignment.probe(Colors(), data) == pytest.approx(1)
    monkeypatch.setattr(measure_alignment, "describe", described(truthful=False))
    assert measure_alignment.probe(Colors(), data) < 0.3


def test_tokens_and_labels_belong_together(data):
    maps, labels = measure_alignment.describe(Colors(), data, "train", 3)
    assert maps.shape == (3, 3, 96, 96)
    assert labels.shape == (3, 48, 48)
    assert set(labels.unique().tolist()) <= set(range(5))


def test_captions_are_shares_of_the_columns(data):
    pictures, shares = make_demo_encoder.read_captions(data, "val")
    _, labels = measure_alignment.describe(Colors(), data, "val", None)
    assert pictures.shape == (2, 3, 96, 96)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 3))
    assert shares[1, 0, 0].item() == pytest.approx((labels[1, :, :16] == 0).float().mean().item())


def test_the_demo_encoder_is_a_core_file(data, tmp_path, capsys):
    arguments = [str(data), str(tmp_path / "core.pt"), "--iterations", "2", "--batch-size", "2"]
    assert run_module(make_demo_encoder, "study", arguments) == 0
    assert "nats" in capsys.readouterr().out
    assert "attn_pool.probe" in read_tensor_file(tmp_path / "core.pt")
    variant = {"base": make_demo_encoder.ENCODER, "ln_post": False, "attn_pool": False, "output_dim": None}
    PEBackbone(variant, weights=str(tmp_path / "core.pt"))
    assert run_module(make_demo_encoder, "study", arguments) == 0
    assert "there already" in capsys.readouterr().out


def test_the_table_compares_with_the_last_layer_before():
    last, inner = measure_alignment.BEFORE
    results = {last: {"J&F": 0.5, "mIoU": 0.4, "match": 1.0}, inner: {"J&F": 0.6, "mIoU": 0.45, "match": 1.0}}
    for seed in range(3):
        for number, name in enumerate(measure_alignment.LOSSES):
            values = {"J&F": 0.4 + 0.1 * seed + 0.05 * number, "mIoU": 0.3, "match": 1.0}
            results[f"after, {name}, seed {seed}"] = values
    text = measure_alignment.table(results)
    assert "| before, last layer | 0.500 | 0.400 | 1.000 |" in text
    assert "| before, the teacher's layer | 0.600 | 0.450 | 1.000 |" in text
    assert "| after, semantic | 0.500 ± 0.100 (+0.000, 1 of 3 better) | 0.300 ± 0.000 (-0.100, 0 of 3 better) |" in text
    assert "| after, both | 0.600 ± 0.100 (+0.100, 2 of 3 better) |" in text
    assert len(text.splitlines()) == 2 + 2 + 3


class Frames:
    """Two videos of one object that stands still, as records."""

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 2

    def get_data_info(self, index):
        paths = [str(self.folder / f"{number}.png") for number in range(16)]
        return {"frame_paths": paths, "annotation_paths": paths}


class Tracker:
    """Features that say the object of a pixel in the first frame, and in later ones as much as they keep."""

    def __init__(self, keeps):
        self.keeps, self.calls = keeps, 0

    def maps(self, frames):
        self.calls += 1
        ids = (frames[0][0] > 0).long()
        if not self.keeps and self.calls % 6 != 1:
            ids = torch.zeros_like(ids)
        return [F.one_hot(ids, 2).float()[None]], None


def test_matching_finds_objects_whose_features_stay_what_they_are(tmp_path):
    for number in range(16):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[:4] = 1
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    assert measure_alignment.match_objects(Tracker(keeps=True), Frames(tmp_path)) == 1
    assert measure_alignment.match_objects(Tracker(keeps=False), Frames(tmp_path)) == 0.5  # all is background
