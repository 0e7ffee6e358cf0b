"""What is learned from several teachers: the formulas in float64, heads, turns, weights, what is refused."""

import pytest
import torch
from alignment_scenes import CORE, batch, scene, write_core
from mmengine.registry import MODELS
from torch.nn import functional as F

from pe_spatial.alignment.distillation import (
    Distillation,
    DistillationOptions,
    cosine_distance,
    smooth_l1_distance,
    token_weights,
    weighted_mean,
)
from pe_spatial.alignment.hooks import student_state
from pe_spatial.backbones import VisionTransformer, get_variant
from pe_spatial.common.errors import DivergedError, UserError
from pe_spatial.common.tensors import write_tensor_file

WITH_CLASS = {**CORE, "cls_token": True}
WIDE = {**CORE, "width": 24, "patch_size": 6, "image_size": 24}


def teacher(variant=CORE, weights=None, **changes):
    backbone = {"type": "PEBackbone", "variant": variant, "weights": weights}
    return {"type": "ModuleTeacher", "backbone": backbone, **changes}


def build(distill, teachers=None, student=CORE, **changes):
    torch.manual_seed(1)
    return MODELS.build(
        {
            "type": "SpatialAlignment",
            "student": {"type": "PEBackbone", "variant": student},
            "teachers": teachers or {name: teacher(WIDE if name == "wide" else CORE) for name in distill},
            "distill": distill,
            **changes,
        }
    )


def run(model, mode, *scenes):
    return model(**model.data_preprocessor(batch(*scenes), training=mode == "loss"), mode=mode)


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_losses(predicted, target, weights):
    """One token after another."""
    images = []
    for p_image, t_image, w_image in zip(predicted, target, weights, strict=True):
        cosine = smooth = 0.0
        for p, t, w in zip(p_image, t_image, w_image, strict=True):
            cosine = cosine + w * (1 - (p @ t) / (p.norm() * t.norm()))
            parts = [0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in p - t]
            smooth = smooth + w * sum(parts) / len(parts)
        images.append(torch.stack([cosine, smooth]) / w_image.sum())
    return torch.stack(images).mean(0)


def test_the_losses_and_their_gradients_are_those_of_the_plain_formulas():
    predicted, target = tokens(2, 5, 4).requires_grad_(), 2 * tokens(2, 5, 4, seed=1)
    weights = tokens(2, 5, seed=2).abs()
    expected = plain_losses(predicted, target, weights)
    ours = [weighted_mean(f(predicted, target), weights) for f in (cosine_distance, smooth_l1_distance)]
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
        gradients = [torch.autograd.grad(loss, predicted, retain_graph=True)[0] for loss in (mine, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)
    assert weighted_mean(torch.ones(2, 3), torch.zeros(2, 3)) == 0


def test_a_teacher_learned_through_its_head_is_the_sum_of_its_weighted_parts():
    options = DistillationOptions(weight=2.0, cosine=0.7, smooth_l1=0.2, summary=0.5, standardize="channels")
    torch.manual_seed(0)
    part = Distillation(options, 4, 6).double()
    x, summary, target, whole = tokens(2, 5, 4), tokens(2, 4, seed=1), tokens(2, 5, 6, seed=2), tokens(2, 6, seed=3)
    losses = part(x, summary, target, whole)
    standard = (target - target.mean((0, 1))) / target.std((0, 1), correction=0)
    linear, norm, _, last = part.head
    head = last(F.gelu(norm(linear(x))))
    expected = 2 * 0.7 * (1 - F.cosine_similarity(head, standard, dim=-1)).mean()
    torch.testing.assert_close(losses["cosine"], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(losses["smooth_l1"], 2 * 0.2 * F.smooth_l1_loss(head, standard), rtol=1e-9, atol=1e-12)
    wanted = (whole - whole.mean(0)) / whole.std(0, correction=0)
    expected = 2 * 0.5 * (1 - F.cosine_similarity(part.summary_head(summary), wanted, dim=-1)).mean()
    torch.testing.assert_close(losses["summary"], expected, rtol=1e-9, atol=1e-12)


def test_nothing_is_learned_before_the_rotation_is_known():
    part = Distillation(DistillationOptions(standardize="isotropic", freeze_after=2), 4, 6)
    x, target = tokens(2, 5, 4).float(), tokens(2, 5, 6, seed=2).float()
    first, second = (sum(part(x, None, target, None).values()) for _ in range(2))
    assert first == 0 and second > 0


def test_tokens_are_weighted_by_whether_they_are_hidden_and_seen():
    hidden = torch.tensor([[True, False, True]])
    overlap = torch.tensor([[1.0, 1.0, 0.0]])
    options = DistillationOptions(hidden=0.25)
    assert token_weights(options, hidden, overlap).tolist() == [[0.25, 1.0, 0.0]]
    assert token_weights(options, hidden, None).tolist() == [[0.25, 1.0, 0.25]]
    assert token_weights(DistillationOptions(), hidden, None) is None
    assert token_weights(options, None, overlap) is overlap


def test_each_teacher_has_its_own_losses_head_and_grid():
    model = build({"same": {}, "wide": {"weight": 3.0, "summary": 1.0, "head_width": 10}})
    losses = run(model.train(), "loss", scene(0), scene(1))
    kinds = ["same_cosine", "wide_cosine", "wide_summary"]
    assert list(losses) == [f"loss_{kind}" for kind in kinds]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert model.distillation["wide"].head[0].weight.shape == (10, 16)
    values = run(model.eval(), "predict", scene(0))[0].alignment
    names = ["semantic_cosine", "semantic_cosine_same", "semantic_cosine_wide"]
    assert [name for name in values if "cosine" in name] == names
    assert values["semantic_cosine"] == pytest.approx((values[names[1]] + values[names[2]]) / 2)


def test_no_head_is_exported_and_the_student_loads_strictly():
    model = build({"same": {"standardize": "channels"}, "wide": {}})
    state = model.student.encoder.state_dict()
    VisionTransformer(get_variant(CORE)).load_state_dict(state, strict=True)
    assert any(key.startswith("distillation.same.head") for key in model.state_dict())
    assert not any("teachers" in key for key in model.state_dict())


def test_teachers_take_turns():
    model = build({"same": {}, "wide": {}}, alternate=True).train()
    for expected in ("same", "wide", "same"):
        losses = run(model, "loss", scene(0))
        other = {"same": "wide", "wide": "same"}[expected]
        assert losses[f"loss_{expected}_cosine"] > 0 and losses[f"loss_{other}_idle"] == 0
        assert f"loss_{other}_cosine" not in losses
    assert int(model.state_dict()["steps"]) == 3
    model.eval()
    run(model, "predict", scene(0))
    assert int(model.steps) == 3


def test_class_tokens_teach_a_student_that_has_one():
    distill = {"first": {"summary": 1.0, "summary_source": "cls", "cosine": 0, "smooth_l1": 0}}
    teachers = {"first": teacher(WITH_CLASS)}
    model = build(distill, teachers, student=WITH_CLASS)
    data = model.data_preprocessor(batch(scene(0)))
    features, summary = model._student_map(data["inputs"])
    assert torch.equal(features, model.student(data["inputs"])[0])
    assert torch.equal(summary, model.student.class_tokens(data["inputs"])[0])
    without = build(distill, teachers)
    torch.testing.assert_close(without._student_map(data["inputs"])[1], without.student(data["inputs"])[0].mean((2, 3)))
    assert list(run(without.train(), "loss", scene(0))) == ["loss_first_summary"]
    with pytest.raises(UserError, match="PEBackbone has no class token; set summary_source: mean"):
        build(distill)


def test_a_teacher_that_gives_nan_is_named(tmp_path):
    model = build({"same": {}, "wide": {}})
    model.teachers["wide"].backbone.encoder.conv1.weight.data[0] = float("nan")
    with pytest.raises(DivergedError, match=r"teacher wide \(ModuleTeacher\) gives NaN.*0.png"):
        run(model, "loss", scene(0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cosine": 0, "smooth_l1": 0}, "distill.same: all losses of this teacher have weight 0"),
        ({"weight": 0}, "weight 0"),
        ({"hidden": -1}, "hidden -1 is below 0"),
        ({"hidden": 0, "visible": 0}, "no token counts"),
        ({"standardise": "channels"}, "no option 'standardise'; did you mean 'standardize'"),
        ({"summary_source": "class"}, "summary_source 'class'"),
        ({"standardize": "channels", "freeze_after": 0}, "freeze_after 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        build({"same": fields})


def test_masks_have_nothing_to_distill():
    with pytest.raises(UserError, match="distill.masks: InstanceMaskTeacher has no fixed channels"):
        build({"masks": {}}, {"masks": {"type": "InstanceMaskTeacher"}})


def test_the_student_learns_from_two_teachers(tmp_path):
    """Steps of Adam on one batch: both losses fall by a third."""
    teachers = {"one": teacher(CORE, write_core(tmp_path / "one.pt")), "two": teacher(WIDE)}
    model = build({"one": {"standardize": "channels", "freeze_after": 5}, "two": {}}, teachers).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    found = []
    for _ in range(30):
        losses = run(model, "loss", scene(0), scene(1))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        found.append({name: float(loss) for name, loss in losses.items()})
    assert all(found[-1][name] < 0.67 * found[5][name] for name in found[0] if "cosine" in name)


# --- students of others -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_a_student_may_be_of_timm_and_a_convnet(name, tmp_path):
    """Its weights learn, the first one too, and what is exported loads into the same encoder."""
    pytest.importorskip("timm")
    student = {"type": "TimmBackbone", "model": name}
    torch.manual_seed(1)
    settings = {"teachers": {"one": teacher(resample=True)}, "distill": {"one": {}}}
    model = MODELS.build({"type": "SpatialAlignment", "student": student, **settings}).train()
    losses = model(**model.data_preprocessor(batch(scene(0, size=128), scene(1, size=128)), training=True), mode="loss")
    sum(losses.values()).backward()
    gradients = [parameter.grad for parameter in model.student.parameters() if parameter.grad is not None]
    learning = [bool(gradient.abs().sum() > 0) for gradient in gradients]  # not behind factors that begin at 0
    assert learning[0] and sum(learning) > len(learning) / 2 > 5
    write_tensor_file(student_state(model), tmp_path / "student.pt")
    loaded = MODELS.build({**student, "weights": str(tmp_path / "student.pt")})
    images = torch.randn(1, 3, 128, 128)
    torch.testing.assert_close(loaded.eval()(images), model.student.eval()(images))
