"""Colors as features: every pixel of a patch is a channel, and nothing else is."""

import pytest
import torch

from pe_spatial.backbones import RawColor
from pe_spatial.common.contracts import Backbone
from pe_spatial.common.errors import OptionError


def test_it_keeps_the_contract_and_holds_the_pixels():
    backbone = RawColor(8, layers=[-1])
    images = torch.randn(2, 3, 16, 24)
    (found,) = backbone(images)
    assert isinstance(backbone, Backbone)
    assert found.shape == (2, *backbone.channels, 16 // backbone.strides[0], 24 // backbone.strides[0])
    patch = images[1, :, 8:16, 16:24]
    assert torch.equal(found[1, :, 1, 2].sort().values, patch.flatten().sort().values)
    assert not list(backbone.parameters())


@pytest.mark.parametrize("settings", [{"layers": [1]}, {"layers": [0, 0]}, {"layers": []}, {"frozen": False}])
def test_it_has_one_layer_and_nothing_to_train(settings):
    with pytest.raises(OptionError, match="one layer"):
        RawColor(8, **settings)


def test_a_size_that_is_no_multiple_is_refused():
    with pytest.raises(OptionError, match="multiples of 8"):
        RawColor(8)(torch.zeros(1, 3, 12, 16))
