"""Visual tokens go into their places, in order, and nowhere else."""

import pytest
import torch

from pe_spatial.common.errors import OptionError
from pe_spatial.plm import place_tokens


def test_tokens_fill_their_places_in_order():
    embedded = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 1, 0]], dtype=torch.bool)
    tokens = torch.arange(12.0, dtype=torch.float64).reshape(2, 2, 3)
    found = place_tokens(embedded, places, tokens)
    assert torch.equal(found[places], tokens.flatten(0, 1).float())
    assert torch.equal(found[~places], embedded[~places])
    assert found.dtype == embedded.dtype


@pytest.mark.parametrize(("count", "shape"), [(1, (2, 1, 3)), (3, (1, 2, 3))])
def test_another_number_of_places_is_refused(count, shape):
    places = torch.arange(5)[None] < count
    message = f"{shape[0] * shape[1]} visual tokens for {count} places of the prompt.*count_tokens"
    with pytest.raises(OptionError, match=message):
        place_tokens(torch.zeros(1, 5, 3), places, torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 3), (1, 1, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(OptionError, match="shapes do not fit"):
        place_tokens(torch.zeros(1, 5, 3), torch.zeros(1, 5, dtype=torch.bool), torch.zeros(shape))
