"""The trial of a student on photographs: found places of an encoder that knows them, and of one that does not."""

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image
from torch import nn

import pe_spatial.alignment  # noqa: F401 - registers
from pe_spatial.alignment.hooks import try_student
from pe_spatial.common.errors import UserError
from pe_spatial.tracking.correspondence import MatchingMetric, PhotographMatcher

NONE = {"rotation": 0, "scale": 1, "shift": 0, "gain": 0, "offset": 0}


class Pixels(nn.Module):
    """The mean color of a patch."""

    mean = std = (127.5, 127.5, 127.5)
    channels, strides, patch_size = (3,), (8,), 8

    def __init__(self, blind=False):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0 if blind else 1.0))

    def forward(self, x):
        return (self.scale * nn.functional.avg_pool2d(x, 8) + 0.01,)


@pytest.fixture
def photographs(tmp_path):
    """Smooth random colors, another in every patch."""
    rng = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64), 0).save(tmp_path / f"{number}.png")
    pipeline = [{"type": "LoadImage"}, {"type": "PackSample"}]
    return {"type": "Photographs", "source": str(tmp_path), "pipeline": pipeline, "test_mode": True}


def tried(student, photographs, **homographies):
    model = {"type": "PhotographMatcher", "homographies": {"side": 64, "number": 2, **homographies}}
    return try_student(student, model, photographs, {"type": "MatchingMetric"})


def test_a_view_that_moves_nothing_is_found_by_every_token(photographs):
    assert tried(Pixels(), photographs, **NONE) == {"match/matched": 1.0, "match/median_error": 0.0}


def test_an_encoder_that_sees_places_finds_more_than_a_blind_one(photographs):
    seeing, blind = (tried(Pixels(each), photographs) for each in (False, True))
    assert seeing["match/matched"] > 2 * blind["match/matched"]
    assert seeing["match/median_error"] < blind["match/median_error"]


def test_a_side_that_does_not_fit_is_refused(photographs):
    with pytest.raises(UserError, match="homographies.side 60 is not a multiple of the encoder's patch size 8"):
        PhotographMatcher(Pixels(), {"side": 60})
    assert len(DATASETS.build(photographs)) == 2 and MatchingMetric.headline == ("matched",)
