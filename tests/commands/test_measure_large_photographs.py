"""tools/dev/measure_large_photographs.py: the clocks of the network, and its figures on a small picture."""

import sys
import time
from pathlib import Path

import pytest
import torch
from small_segmenters import save_segmenter
from torch import nn

sys.path.append(str(Path(__file__).parents[2] / "tools" / "dev"))
import measure_large_photographs

from pe_spatial.common.pictures import read_image


class Busy(nn.Module):
    def forward(self, x):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return x


def test_time_in_nested_modules_counts_once():
    model = nn.Sequential(nn.Sequential(Busy(), Busy()), Busy())
    with measure_large_photographs.time_in_networks(model) as spent:
        model(torch.zeros(1))
    assert len(spent) == 2 and 0.06 <= sum(spent) < 0.12
    model(torch.zeros(1))
    assert len(spent) == 2  # the hooks are gone


def test_figures_of_a_small_photograph(tmp_path):
    checkpoint = save_segmenter(tmp_path / "seg.pth")
    photo = measure_large_photographs.synthetic_photograph(tmp_path / "photo.jpg", 200)
    assert read_image(photo).shape == (3, 200, 200)
    figures = measure_large_photographs.measure(checkpoint, photo, tmp_path / "out", 1)
    assert figures.keys() == {"decode", "network", "predict", "files", "pictures", "wall", "above", "times"}
    assert figures["network"] > 0 and 0 < figures["predict"] < figures["pictures"]
    assert figures["times"]["files"] == pytest.approx(figures["files"] / figures["decode"], abs=0.01)
    results = tmp_path / "out" / "0"
    assert (results / "files" / "segmentation.json").is_file() and not (results / "files" / "pictures").exists()
    assert list((results / "pictures" / "pictures").iterdir())
