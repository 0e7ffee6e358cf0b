import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATA_SAMPLERS, DATASETS, MODELS, TRANSFORMS
from torchvision import tv_tensors

import pe_spatial.data
from pe_spatial.common.errors import ConfigError
from pe_spatial.data import PackSample


def sample(**more):
    return {
        "img": tv_tensors.Image(torch.zeros(3, 6, 8, dtype=torch.uint8)),
        "img_path": "a.png",
        "img_id": 7,
        "ori_shape": (12, 16),
        **more,
    }


def instances():
    return {
        "boxes": tv_tensors.BoundingBoxes(torch.zeros(2, 4), format="XYXY", canvas_size=(6, 8)),
        "labels": torch.tensor([1, 0]),
        "masks": tv_tensors.Mask(torch.zeros(2, 6, 8, dtype=torch.bool)),
    }


def test_an_image_alone():
    packed = PackSample()(sample())
    assert set(packed) == {"inputs", "data_samples"}
    assert type(packed["inputs"]) is torch.Tensor
    assert packed["inputs"].is_contiguous()
    assert packed["data_samples"].metainfo == {
        "img_path": "a.png",
        "img_id": 7,
        "ori_shape": (12, 16),
        "img_shape": (6, 8),
    }
    assert list(packed["data_samples"].all_keys()) == list(packed["data_samples"].metainfo_keys())


def test_every_label_is_packed_as_a_plain_tensor():
    ignored = {f"ignored_{key}": value for key, value in instances().items() if key != "labels"}
    maps = {
        "sem_seg": tv_tensors.Mask(torch.ones(1, 6, 8, dtype=torch.int64)),
        "depth": tv_tensors.Mask(torch.ones(1, 6, 8)),
    }
    packed = PackSample()(sample(**instances(), **ignored, **maps))["data_samples"]
    assert {key: tuple(packed.gt_instances[key].shape) for key in packed.gt_instances.keys()} == {  # noqa: SIM118
        "bboxes": (2, 4),
        "labels": (2,),
        "masks": (2, 6, 8),
    }
    assert len(packed.ignored_instances) == 2
    assert packed.gt_sem_seg.data.dtype == torch.int64
    assert packed.gt_depth.data.dtype == torch.float32
    fields = [packed.gt_instances.bboxes, packed.gt_instances.masks, packed.gt_sem_seg.data, packed.gt_depth.data]
    assert all(type(field) is torch.Tensor for field in fields)


def test_a_video_keeps_its_ids():
    video = tv_tensors.Video(torch.zeros(4, 3, 6, 8, dtype=torch.uint8))
    packed = PackSample()(sample(img=video, masks=tv_tensors.Mask(torch.ones(4, 6, 8, dtype=torch.int64))))
    assert packed["inputs"].shape == (4, 3, 6, 8)
    assert packed["data_samples"].gt_track_ids.data.shape == (4, 6, 8)
    assert packed["data_samples"].img_shape == (6, 8)


def test_packed_samples_are_batched_into_lists():
    batch = pseudo_collate([PackSample()(sample()) for _ in range(3)])
    assert [len(batch[key]) for key in ("inputs", "data_samples")] == [3, 3]
    assert batch["data_samples"][2].img_id == 7


def test_wrong_images_and_uneven_instances_are_named():
    with pytest.raises(ConfigError, match=r"a.png: img is Image torch.float32.*DensePreprocessor"):
        PackSample()(sample(img=tv_tensors.Image(torch.zeros(3, 6, 8))))
    with pytest.raises(ConfigError, match="img is missing"):
        PackSample()({"img_path": "a.png"})
    with pytest.raises(ValueError, match="'labels': 1.*SanitizeInstances"):
        PackSample()(sample(**{**instances(), "labels": torch.tensor([1])}))


def test_our_names_are_not_those_of_mmcv_or_mmseg():
    pytest.importorskip("mmseg")
    import mmcv.transforms  # noqa: F401 - registers
    import mmseg.datasets
    import mmseg.models  # noqa: F401 - registers

    ours = {name for name, thing in vars(pe_spatial.data).items() if isinstance(thing, type)}
    for registry in (TRANSFORMS, DATASETS, MODELS, DATA_SAMPLERS):
        for scope in (registry, *registry.children.values()):
            for name, thing in scope.module_dict.items():
                assert name not in ours or thing.__module__.startswith("pe_spatial.data"), name
