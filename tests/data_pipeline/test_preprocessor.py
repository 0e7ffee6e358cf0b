import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData

from pe_spatial.common.errors import ConfigError
from pe_spatial.data import DensePreprocessor


def images(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


def test_the_default_is_the_encoders_half_and_half():
    [image] = images((4, 6))
    image[:, 0, :3] = torch.tensor([0, 255, 51], dtype=torch.uint8)
    batch = DensePreprocessor()({"inputs": [image]})["inputs"]
    assert batch.dtype == torch.float32
    assert torch.allclose(batch[0, 0, 0, :3], torch.tensor([-1.0, 1.0, -0.6]))
    assert torch.allclose(batch[0], (image / 255 - 0.5) / 0.5, atol=1e-6)


def test_statistics_apply_per_channel():
    [image] = images((4, 6))
    batch = DensePreprocessor(mean=[127, 100, 0], std=[127, 10, 2])({"inputs": [image]})["inputs"]
    expected = torch.stack([(image[0] - 127.0) / 127, (image[1] - 100.0) / 10, image[2] / 2.0])
    assert torch.equal(batch[0], expected)


def test_normalizing_is_inverted():
    [image] = images((5, 7))
    module = DensePreprocessor(mean=[123, 116, 103], std=[58, 57, 57])
    batch = module({"inputs": [image]})["inputs"]
    assert torch.equal((batch[0] * module.std + module.mean).round().to(torch.uint8), image)


def test_images_of_different_sizes_are_padded_at_the_bottom_and_the_right():
    inputs = images((5, 9), (8, 3))
    samples = [BaseDataElement() for _ in inputs]
    out = DensePreprocessor(size_divisor=4)({"inputs": inputs, "data_samples": samples})
    assert out["inputs"].shape == (2, 3, 8, 12)
    for image, row, sample in zip(inputs, out["inputs"], out["data_samples"], strict=True):
        h, w = image.shape[1:]
        alone = DensePreprocessor()({"inputs": [image]})["inputs"][0]
        assert torch.equal(row[:, :h, :w], alone)
        assert row[:, h:].abs().sum() == row[:, :, w:].abs().sum() == 0
        assert sample.padding_size == (0, 12 - w, 0, 8 - h)
        assert sample.batch_input_shape == (8, 12)


def test_a_fixed_size():
    inputs = images((5, 9))
    assert DensePreprocessor(size_divisor=8, pad_to=[16, 24])({"inputs": inputs})["inputs"].shape == (1, 3, 16, 24)
    with pytest.raises(ValueError, match=r"\(5, 9\).*does not fit pad_to \(16, 8\)"):
        DensePreprocessor(pad_to=[16, 8])({"inputs": inputs})


def test_a_batch_tensor_is_accepted():
    inputs = images((4, 4), (4, 4))
    module = DensePreprocessor()
    as_list = module({"inputs": inputs})["inputs"]
    assert torch.equal(module({"inputs": torch.stack(inputs)})["inputs"], as_list)


@pytest.mark.parametrize("training", [True, False])
def test_maps_are_padded_in_training_only(training):
    sample = BaseDataElement()
    sample.gt_sem_seg = PixelData(data=torch.ones(1, 5, 9, dtype=torch.int64))
    sample.gt_depth = PixelData(data=torch.ones(1, 5, 9))
    [padded] = DensePreprocessor(size_divisor=8)({"inputs": images((5, 9)), "data_samples": [sample]}, training)[
        "data_samples"
    ]
    size = (8, 16) if training else (5, 9)
    for field, fill in (("gt_sem_seg", 255), ("gt_depth", 0)):
        data = padded.get(field).data
        assert data.shape == (1, *size)
        assert (data[:, :5, :9] == 1).all()
        assert (data[:, 5:] == fill).all()
        assert (data[:, :, 9:] == fill).all()


def test_inputs_are_not_changed():
    inputs = images((5, 9))
    before = inputs[0].clone()
    DensePreprocessor(size_divisor=4)({"inputs": inputs})
    assert torch.equal(inputs[0], before)


def test_statistics_are_no_part_of_a_checkpoint_but_follow_the_device():
    module = MODELS.build({"type": "DensePreprocessor", "size_divisor": 16})
    assert not module.state_dict()
    assert module.to("meta").mean.device.type == "meta"


def test_wrong_images():
    for image in (torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8)):
        with pytest.raises(ConfigError, match=r"must be uint8 \[3, H, W\]"):
            DensePreprocessor()({"inputs": [image]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": [0.5]}, "three numbers"),
        ({"std": [1, 0, 1]}, "above 0"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, "multiply mean and std by 255"),
        ({"size_divisor": 0}, "size_divisor 0"),
        ({"size_divisor": 16, "pad_to": [100, 96]}, "multiples of size_divisor 16"),
        ({"pad_to": [96]}, r"must be \(H, W\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DensePreprocessor(**arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_images_are_normalized_on_the_device():
    inputs = images((5, 9), (8, 3))
    expected = DensePreprocessor(size_divisor=4)({"inputs": inputs})["inputs"]
    batch = DensePreprocessor(size_divisor=4).cuda()({"inputs": inputs})["inputs"]
    assert batch.is_cuda
    assert torch.allclose(batch.cpu(), expected, atol=1e-6)
