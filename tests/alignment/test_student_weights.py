"""A student that begins as another encoder: LayerScale added, positions resized, only where that is asked for."""

import pytest
import torch
from alignment_scenes import CORE, SPATIAL, write_core
from torch.nn import functional as F

from pe_spatial.backbones import PEBackbone
from pe_spatial.backbones.weights import load_weights
from pe_spatial.common.tensors import WeightsError, read_tensor_file

LARGER = {**CORE, "image_size": 48}


@pytest.fixture
def core(tmp_path):
    return write_core(tmp_path / "core.pt")


def gammas(backbone):
    return {name: value for name, value in backbone.named_parameters() if name.endswith("gamma")}


def test_layer_scale_is_added_at_its_initial_value_and_nothing_else_changes(core):
    student = PEBackbone(SPATIAL, weights=core, adapt=["layer_scale"])
    assert len(gammas(student)) == 2 * CORE["depth"]
    assert all((value == 0.1).all() and value.requires_grad for value in gammas(student).values())
    plain = PEBackbone(CORE, weights=core).state_dict()
    ours = {name: value for name, value in student.state_dict().items() if not name.endswith("gamma")}
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


def test_with_a_layer_scale_of_one_the_student_is_the_initial_model(core):
    images = torch.randn(1, 3, 32, 32)
    student = PEBackbone({**CORE, "layer_scale": 1.0}, weights=core, adapt=["layer_scale"])
    torch.testing.assert_close(student(images), PEBackbone(CORE, weights=core)(images))


def test_trained_layer_scale_is_loaded_and_not_replaced(core, tmp_path):
    trained = PEBackbone(SPATIAL, weights=core, adapt=["layer_scale"])
    for value in gammas(trained).values():
        value.data.fill_(0.7)
    torch.save(trained.encoder.state_dict(), tmp_path / "trained.pt")
    again = PEBackbone(SPATIAL, weights=str(tmp_path / "trained.pt"), adapt=["layer_scale"])
    assert all((value == 0.7).all() for value in gammas(again).values())


@pytest.mark.parametrize("cls_token", [False, True])
def test_positions_are_resized_to_another_grid(tmp_path, cls_token):
    path = write_core(tmp_path / "core.pt", cls_token=cls_token)
    student = PEBackbone({**LARGER, "cls_token": cls_token}, weights=path, adapt=["positions"])
    table = read_tensor_file(tmp_path / "core.pt")["positional_embedding"]
    first = int(cls_token)
    image = table[first:].view(4, 4, 16).permute(2, 0, 1)[None]
    expected = F.interpolate(image, (6, 6), mode="bicubic")[0].permute(1, 2, 0).flatten(0, 1)
    ours = student.encoder.positional_embedding
    torch.testing.assert_close(ours[first:].detach(), expected)
    assert torch.equal(ours[:first], table[:first])


def test_both_are_reported(core):
    student = PEBackbone({**LARGER, "layer_scale": 0.1})
    report = str(load_weights(student.encoder, core, adapt=["layer_scale", "positions"]))
    assert "LayerScale added, 8 tensors of 0.1" in report
    assert "position table resized bicubically from 4x4 to 6x6" in report


@pytest.mark.parametrize(
    ("variant", "remedy"),
    [
        (SPATIAL, r"8 of \d+ keys missing.*set adapt: \[layer_scale\]"),
        (LARGER, r"positional_embedding is \[16, 16\], not \[36, 16\].*set adapt: \[positions\]"),
        ({**LARGER, "layer_scale": 0.1}, r"set adapt: \[layer_scale, positions\]"),
    ],
)
def test_without_being_asked_the_difference_is_an_error_that_names_the_option(core, variant, remedy):
    with pytest.raises(WeightsError, match=remedy):
        PEBackbone(variant, weights=core)


def test_other_differences_stay_errors(core):
    with pytest.raises(WeightsError, match="does not fit") as caught:
        PEBackbone({**SPATIAL, "width": 24}, weights=core, adapt=["layer_scale", "positions"])
    assert "adapt" not in str(caught.value)
    with pytest.raises(WeightsError, match="'layerscale' is not one of layer_scale, positions"):
        PEBackbone(SPATIAL, weights=core, adapt=["layerscale"])
