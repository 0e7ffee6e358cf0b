"""What the recipes of DETA promise: the authors' four stages, a layer decay that works, one model for two matchings."""

import pytest
import torch
from mmengine.registry import MODELS

from pe_spatial.detection.deta.postprocess import NMSPostprocess, TopKPostprocess
from pe_spatial.training.config import load_config
from pe_spatial.training.optim import LayerDecayConstructor

STAGES = {  # images of the dataset, epochs, epochs until the rate drops, batch, pixels, classes, rate
    "deta_pe_spatial_g_objects365_12ep_1024px": (1_742_289, 12, 10, 256, 1024, 365, 2e-4),
    "deta_pe_spatial_g_objects365_6ep_1536px": (1_742_289, 6, 4, 128, 1536, 365, 5e-5),
    "deta_pe_spatial_g_coco_12ep_1728px": (118_287, 12, 10, 64, 1728, 80, 5e-5),
    "deta_pe_spatial_g_coco_3ep_1824px": (118_287, 3, 2, 64, 1824, 80, 5e-5),
}


def build(config):
    config.model.backbone.weights = None
    with torch.device("meta"):
        return MODELS.build(config.model)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_the_authors(name):
    images, epochs, drop, batch, pixels, classes, rate = STAGES[name]
    config = load_config(name)
    assert config.train_cfg.max_iters == pytest.approx(epochs * images / batch, abs=1)
    assert config.param_scheduler[0].milestones == [pytest.approx(drop * images / batch, abs=1)]
    assert config.model.data_preprocessor.pad_to == [pixels, pixels]
    assert config.model.num_classes == classes
    assert config.optim_wrapper.optimizer.lr == rate
    (augmentation,) = (step for step in config.train_dataloader.dataset.pipeline if step.type == "ResizeOrCrop")
    assert augmentation.size == pixels
    assert config.model.backbone.rope == 16


def rates(name, *overrides):
    config = load_config(name, overrides)
    model = build(config)
    wrapper = config.optim_wrapper
    constructor = LayerDecayConstructor({"optimizer": dict(wrapper.optimizer)}, dict(wrapper.paramwise_cfg))
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in constructor.parameter_groups(model) for p in group["params"]}


def test_the_layer_decay_works():
    found = rates("deta_pe_spatial_g_coco_3ep_1824px")
    block = "backbone.encoder.transformer.resblocks.{}.mlp.c_fc.weight"
    assert found["neck.upsample.weight"] == found["transformer.enc_output.weight"] == 5e-5
    assert found[block.format(49)] == pytest.approx(5e-5 * 0.9)
    assert found[block.format(0)] == pytest.approx(5e-5 * 0.9**50)
    assert found["backbone.encoder.conv1.weight"] == pytest.approx(5e-5 * 0.9**51)
    assert found["transformer.encoder.layers.0.self_attn.sampling_offsets.weight"] == pytest.approx(5e-6)
    assert len(set(found.values())) == 51 + 2


def test_the_authors_flat_rates_are_one_setting_away():
    found = rates("deta_pe_spatial_g_coco_3ep_1824px", "optim_wrapper.paramwise_cfg.layer_decay=1.0")
    assert sorted(set(found.values())) == pytest.approx([5e-6, 5e-5])


def test_a_frozen_encoder_is_not_trained():
    found = rates("deta_pe_spatial_l_coco_12ep_frozen_24gb")
    assert not any(name.startswith("backbone") for name in found)
    assert "neck.upsample.weight" in found


def test_matching_is_a_setting_of_the_same_model():
    plain = build(load_config("deformable_detr_pe_spatial_b_coco_50ep"))
    assert isinstance(plain.postprocess, TopKPostprocess) and not plain.transformer.two_stage
    deta = build(load_config("deta_pe_spatial_b_coco_12ep"))
    other = build(load_config("deta_pe_spatial_b_coco_12ep", ["model.matching=one_to_one"]))
    assert isinstance(deta.postprocess, NMSPostprocess)
    assert isinstance(other.postprocess, TopKPostprocess)
    assert deta.state_dict().keys() == other.state_dict().keys()
