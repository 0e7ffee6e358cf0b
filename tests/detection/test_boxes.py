import torch

from pe_spatial.detection.mask_rcnn.boxes import IGNORED, Assigner, DeltaCoder


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 400
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * 200], dim=1)


def test_decode_inverts_encode():
    coder = DeltaCoder((10.0, 10.0, 5.0, 5.0))
    boxes, reference = random_boxes(50, 0), random_boxes(50, 1)
    decoded = coder.decode(coder.encode(boxes, reference), reference)
    torch.testing.assert_close(decoded[:, 0], boxes, atol=1e-3, rtol=0)


def test_several_boxes_for_one_reference():
    coder = DeltaCoder((1.0, 1.0, 1.0, 1.0))
    reference = random_boxes(4, 2)
    deltas = torch.randn(4, 3 * 4, generator=torch.Generator().manual_seed(0)) * 0.1
    together = coder.decode(deltas, reference)
    for k in range(3):
        torch.testing.assert_close(together[:, k], coder.decode(deltas[:, 4 * k : 4 * k + 4], reference)[:, 0])


def test_decoding_is_single_precision():
    coder = DeltaCoder((1.0, 1.0, 1.0, 1.0))
    reference = torch.tensor([[700.9, 702.1, 732.5, 745.3]])
    decoded = coder.decode(torch.zeros(1, 4, dtype=torch.bfloat16), reference)
    torch.testing.assert_close(decoded[0, 0], reference[0], atol=1e-3, rtol=0)  # bf16 itself is 2 pixels off


def test_growth_is_limited():
    box = DeltaCoder((1.0, 1.0, 1.0, 1.0)).decode(
        torch.tensor([[0.0, 0.0, 50.0, 50.0]]), torch.tensor([[0, 0, 16, 16]])
    )
    torch.testing.assert_close(box[0, 0], torch.tensor([-492.0, -492.0, 508.0, 508.0]))


def test_matching_with_a_band_that_is_ignored():
    objects = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110]])
    candidates = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 100], [100, 100, 110, 120]]
    )  # IoU 1, .5, .1, .5
    strict = Assigner((0.3, 0.7), 4, 0.5).match(candidates, objects)
    assert strict.label.tolist() == [1, IGNORED, 0, IGNORED]
    best = Assigner((0.3, 0.7), 4, 0.5, keep_best=True).match(candidates, objects)
    assert best.label.tolist() == [1, IGNORED, 0, 1]
    assert best.gt_index[3] == 1


def test_without_objects_all_is_background():
    match = Assigner((0.5, 0.5), 8, 0.25).match(random_boxes(5, 0), torch.zeros(0, 4))
    assert match.label.tolist() == [0] * 5


def test_sampling_fills_up_with_background():
    label = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, IGNORED])
    positive, negative = Assigner((0.5, 0.5), 6, 0.25).sample(label)
    assert len(positive) == 1 and len(negative) == 5
    assert label[positive].eq(1).all() and label[negative].eq(0).all()
    positive, negative = Assigner((0.5, 0.5), 100, 0.25).sample(label)
    assert len(positive) == 3 and len(negative) == 5
