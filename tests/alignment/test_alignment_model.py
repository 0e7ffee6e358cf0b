"""SpatialAlignment: what the student sees, what is learned from whom, and what is refused."""

import pytest
import torch
from alignment_scenes import CORE, SPATIAL, batch, scene, settings, write_core
from mmengine.registry import MODELS
from mmengine.structures import PixelData

from pe_spatial.alignment.losses import locality_loss, semantic_loss
from pe_spatial.alignment.metric import effective_rank
from pe_spatial.alignment.teachers import Teacher
from pe_spatial.backbones import PEBackbone
from pe_spatial.common.errors import ConfigError, UserError


@pytest.fixture
def core(tmp_path):
    return write_core(tmp_path / "core.pt")


def build(*arguments, **changes):
    torch.manual_seed(1)
    return MODELS.build(settings(*arguments, **changes))


def run(model, mode, *scenes):
    return model(**model.data_preprocessor(batch(*scenes), training=mode == "loss"), mode=mode)


def hide(*cells):
    hidden = torch.zeros(1, 4, 4, dtype=torch.bool)
    for row, column in cells:
        hidden[0, row, column] = True
    return hidden


def test_losses_are_those_of_the_formulas_on_all_tokens(core):
    model = build(core, semantic={"teacher": "core", "weight": 2.0}, locality={"teacher": "masks", "weight": 0.5})
    hidden = hide((0, 0), (1, 2))
    losses = run(model, "loss", scene(0, hidden=hidden), scene(1, hidden=hidden))
    data = model.data_preprocessor(batch(scene(0), scene(1)))
    seen = data["inputs"].clone()
    seen[:, :, 0:8, 0:8] = seen[:, :, 8:16, 16:24] = 0
    student = PEBackbone(CORE, weights=core)(seen)[0].flatten(2).mT
    teacher = PEBackbone(CORE, [1], weights=core)(data["inputs"])[0].flatten(2).mT
    masks = model.teachers["masks"](data["inputs"], data["data_samples"], (4, 4)).flatten(2).mT
    torch.testing.assert_close(losses["loss_semantic"], 2 * semantic_loss(student, teacher))
    torch.testing.assert_close(losses["loss_locality"], 0.5 * locality_loss(student, masks))


def test_a_hidden_patch_does_not_reach_the_student(core):
    model = build(core)
    one, other = scene(0, hidden=hide((2, 1))), scene(0, hidden=hide((2, 1)))
    other["inputs"][:, 16:24, 8:16] = 7
    assert run(model, "loss", one)["loss_locality"] == run(model, "loss", other)["loss_locality"]
    other["inputs"][:, 16:24, 7] = 7
    assert run(model, "loss", one)["loss_locality"] != run(model, "loss", other)["loss_locality"]


def test_zero_fill_is_the_token_with_its_position_alone(core):
    model = build(core)
    data = model.data_preprocessor(batch(scene(0, hidden=hide((3, 0)))))
    tokens = model.student.encoder.conv1(model._hide(data["inputs"], data["data_samples"])[0])
    assert not tokens[0, :, 3, 0].any()
    assert tokens[0, :, 3, 1].any()


def test_fills(core):
    hidden = scene(0, hidden=hide((0, 0)))
    mean, learned = build(core, fill="mean"), build(core, fill="learned")
    data = mean.data_preprocessor(batch(hidden))
    patch = mean._hide(data["inputs"], data["data_samples"])[0][0, :, :8, :8]
    torch.testing.assert_close(patch, data["inputs"][0].mean((1, 2))[:, None, None].expand(-1, 8, 8))
    sum(run(learned, "loss", hidden).values()).backward()
    assert learned.hidden_patch.grad.abs().sum() > 0
    assert "hidden_patch" not in learned.student.state_dict()


def test_the_teacher_reads_its_layer_of_the_initial_model(core):
    model = build(
        core, teachers=settings(core)["teachers"] | {"core": {**settings(core)["teachers"]["core"], "layer": 2}}
    )
    data = model.data_preprocessor(batch(scene(0)))
    expected = PEBackbone(CORE, [2], weights=core)(data["inputs"])[0]
    torch.testing.assert_close(model.teachers["core"](data["inputs"], data["data_samples"], (4, 4)), expected)


def test_no_teacher_is_trained_saved_or_left_behind(core):
    model = build(core)
    assert not any("teacher" in key or "core" in key for key in model.state_dict())
    assert len(list(model.parameters())) == len(list(model.student.parameters()))
    before = [value.clone() for value in model.teachers["core"].state_dict().values()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sum(run(model, "loss", scene(0)).values()).backward()
    optimizer.step()
    assert all(map(torch.equal, before, model.teachers["core"].state_dict().values()))
    assert not any(parameter.requires_grad for parameter in model.teachers["core"].parameters())
    model.train()
    assert not model.teachers["core"].training
    assert model.to("meta").teachers["core"].backbone.encoder.conv1.weight.device.type == "meta"


def test_every_trained_parameter_gets_a_gradient(core):
    model = build(core, student={"type": "PEBackbone", "variant": SPATIAL, "weights": core, "adapt": ["layer_scale"]})
    sum(run(model, "loss", scene(0, hidden=hide((0, 0))), scene(1, hidden=hide((0, 1)))).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    assert model.student.encoder.transformer.resblocks[0].ls_1.gamma.requires_grad


def test_checkpointed_blocks_give_the_same_gradients(core):
    plain, saving = (
        build(core, student={"type": "PEBackbone", "variant": CORE, "weights": core, "checkpointing": on}).train()
        for on in (False, True)
    )
    for model in (plain, saving):
        sum(run(model, "loss", scene(0)).values()).backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_student_equal_to_its_teachers_agrees_with_them(core):
    teachers = {"core": {"type": "LayerTeacher", "variant": CORE, "weights": core, "layer": 1.0}}
    locality = {"teacher": "core", "temperature": None}
    model = build(core, teachers=teachers, locality=locality).eval()
    values = run(model, "predict", scene(0), scene(1))[1].alignment
    assert values["semantic_cosine"] == pytest.approx(1, abs=1e-6)
    assert values["locality_agreement"] == pytest.approx(1, abs=1e-6)
    assert values["locality_error"] == pytest.approx(0, abs=1e-10)
    losses = run(model, "loss", scene(0), scene(1))
    assert losses["loss_semantic"].item() == pytest.approx(-1, abs=1e-6)


def test_prediction_is_judged_on_the_whole_image_and_gives_the_loss(core):
    model = build(core).eval()
    losses = run(model, "loss", scene(3))
    values = run(model, "predict", scene(3, hidden=hide((0, 0), (1, 1))))[0].alignment
    assert values["semantic_cosine"] == pytest.approx(-losses["loss_semantic"].item(), abs=1e-6)
    assert values["locality_error"] == pytest.approx(losses["loss_locality"].item(), abs=1e-6)
    assert 0 <= values["global_tokens"] <= 1


def test_distillation_from_a_larger_encoder_of_another_patch_size():
    """Student 32 px / 8, teacher 24 px / 6: one grid of 4 x 4; widths meet in one linear layer that is trained."""
    teacher = {"type": "EncoderTeacher", "variant": {**CORE, "patch_size": 6, "image_size": 24, "width": 24}}
    model = build(
        teachers={"giant": {**teacher, "dtype": "bfloat16"}},
        semantic={"teacher": "giant", "projection": True},
        locality={"teacher": "giant", "temperature": None},
    )
    losses = run(model, "loss", scene(0), scene(1))
    assert model.projection.weight.shape == (24, 16)
    (gradient,) = torch.autograd.grad(losses["loss_semantic"], model.projection.weight)
    assert gradient.any()
    assert next(model.teachers["giant"].parameters()).dtype == torch.bfloat16
    assert not any("projection" in key for key in model.student.state_dict())


def mask(size):
    sample = scene(0)
    sample["data_samples"].set_field(PixelData(data=torch.randn(5, *size)), "mask_logits", dtype=PixelData)
    return sample


def test_cached_maps_are_used_as_they_are(core):
    model = build(core, teachers={"sam": {"type": "CachedMaskTeacher"}}, semantic=None, locality={"teacher": "sam"})
    sample = mask((4, 4))
    ours = run(model, "loss", sample)["loss_locality"]
    student = run(model, "tensor", scene(0)).flatten(2).mT
    torch.testing.assert_close(
        ours, locality_loss(student, sample["data_samples"].mask_logits.data[None].flatten(2).mT)
    )


def test_another_grid_is_named(core):
    model = build(core, teachers={"sam": {"type": "CachedMaskTeacher"}}, semantic=None, locality={"teacher": "sam"})
    with pytest.raises(ConfigError, match=r"teacher sam \(CachedMaskTeacher\) gives \(6, 6\).*student \(4, 4\).*48"):
        run(model, "loss", mask((6, 6)))
    with pytest.raises(ValueError, match=r"0.png: CachedMaskTeacher needs mask_logits.*cache_teacher"):
        run(model, "loss", scene(0))
    with pytest.raises(ConfigError, match=r"token_mask has \(2, 2\).*\(4, 4\).*patch_size 8"):
        run(build(core), "loss", scene(0, hidden=torch.ones(1, 2, 2, dtype=torch.bool)))


MASKS = {"masks": {"type": "InstanceMaskTeacher"}}
WIDE = {"type": "EncoderTeacher", "variant": {**CORE, "width": 24}}
TWO_LAYERS = {"type": "PEBackbone", "variant": CORE, "layers": [0, 1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semantic": None, "locality": None}, "nothing to learn"),
        ({"semantic": {"teacher": "cor"}}, "no teacher 'cor'; did you mean 'core'"),
        ({"semantic": None}, "'core' is used by no loss"),
        ({"semantic": {"teacher": "masks"}, "teachers": MASKS}, "only teach locality"),
        ({"teachers": {"core": WIDE, **MASKS}}, "24 channels and the student 16; set semantic.projection"),
        ({"fill": "noise"}, "fill 'noise'"),
        ({"student": TWO_LAYERS}, "one map"),
    ],
)
def test_mistakes_are_found_at_construction(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_other_modes_are_refused(core):
    model = build(core)
    with pytest.raises(ValueError, match="mode='train'"):
        model(torch.zeros(1, 3, 32, 32), mode="train")
    with pytest.raises(ValueError, match="needs data_samples"):
        model(torch.zeros(1, 3, 32, 32), mode="loss")


def test_a_teacher_must_say_what_it_sees():
    with pytest.raises(NotImplementedError):
        Teacher()(torch.zeros(1, 3, 8, 8), [], (1, 1))


def test_the_effective_rank_counts_directions():
    torch.manual_seed(0)
    axes = torch.linalg.qr(torch.randn(64, 8))[0]
    axes = torch.cat((axes, -axes))  # of mean zero
    assert effective_rank(axes) == pytest.approx(8, rel=1e-5)
    assert effective_rank(axes[:, :1] @ torch.ones(1, 8)) == pytest.approx(1, rel=1e-4)
