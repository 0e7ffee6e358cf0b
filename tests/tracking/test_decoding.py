import numpy as np
import pytest
import torch
from PIL import Image

from pe_spatial.tracking.decoding import Decoding, background, decode, encode

FRAME, GRID = (32, 48), (4, 6)


def blocks():
    mask = torch.zeros(FRAME, dtype=torch.int64)
    mask[8:24, 8:24], mask[:16, 32:] = 3, 9
    return mask


@pytest.mark.parametrize("how", [Decoding(upsampling="nearest"), Decoding(upsampling="nearest", at_frame_size=True)])
def test_masks_of_whole_tokens_come_back(how):
    shares = encode(blocks(), [3, 9], GRID)
    channels = torch.cat((background(shares, [[0, 1]])[..., None], shares), dim=-1)
    winner = decode(channels, how, FRAME, FRAME)
    assert torch.equal(torch.tensor([0, 3, 9])[winner], blocks())


def test_tokens_take_the_pixel_that_pillow_takes():
    mask = torch.randint(0, 4, (37, 53), generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(np.array(Image.fromarray(mask.byte().numpy()).resize((7, 5), Image.Resampling.NEAREST)))
    shares = encode(mask, [1, 2, 3], (5, 7))
    assert torch.equal((shares * torch.tensor([1.0, 2.0, 3.0])).sum(dim=-1), expected.float())


def test_a_lost_object_takes_the_token_that_it_covers_most():
    mask = blocks()
    mask[1:3, 1:3] = 5
    shares = encode(mask, [3, 5, 9], GRID)
    assert shares[0, 0].tolist() == [0, 1, 0]
    assert shares[..., 1].sum() == 1


def test_groups_leave_their_rest_independently():
    shares = torch.tensor([[[0.5, 0.25, 0.5]]])
    assert background(shares, [[0, 1, 2]]).item() == 0
    assert background(shares, [[0, 1], [2]]).item() == pytest.approx(0.25 * 0.5)


def test_stretching_lets_a_weak_object_win():
    channels = torch.zeros(*GRID, 2)
    channels[..., 0], channels[1, 2, 1], channels[1, 2, 0] = 1, 0.3, 0.7
    assert not decode(channels, Decoding(stretch=False), FRAME, FRAME).any()
    assert decode(channels, Decoding(), FRAME, FRAME).any()


def test_an_object_that_is_nowhere_stays_nowhere():
    channels = torch.zeros(*GRID, 2)
    channels[..., 0] = 1
    assert not decode(channels, Decoding(), FRAME, (100, 130)).any()


def test_unknown_upsampling_is_refused():
    with pytest.raises(ValueError, match="bilinear, nearest"):
        Decoding(upsampling="cubic")
