"""What the student and its teachers see: windows that are shifted apart, random sizes, teachers with more pixels."""

import pytest
import torch
from alignment_scenes import CORE, batch, scene
from mmengine.registry import MODELS
from torch import nn
from torch.nn import functional as F

from pe_spatial.alignment.losses import locality_loss
from pe_spatial.alignment.views import RandomShifts, ViewOptions, brought_over, side_of_step
from pe_spatial.common.errors import UserError


@MODELS.register_module()
class EquivariantStub(nn.Module):
    """A backbone whose token depends on its own patch alone: what is shifted by a patch gives shifted tokens."""

    mean = std = (127.5, 127.5, 127.5)
    channels, strides, patch_size, depth, layers = (4,), (8,), 8, 1, (0,)

    def __init__(self, layers=(0,), frozen=False):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Conv2d(3, 4, 8, stride=8)

    def forward(self, x):
        return (self.encoder(x),)


STUB = {"type": "EquivariantStub"}
PE = {"type": "PEBackbone", "variant": CORE}


def build(views=None, student=PE, teachers=("one", "two"), backbone=PE, **changes):
    torch.manual_seed(1)
    return MODELS.build(
        {
            "type": "SpatialAlignment",
            "student": student,
            "teachers": {name: {"type": "ModuleTeacher", "backbone": backbone} for name in teachers},
            "distill": {name: {} for name in teachers},
            "views": views,
            **changes,
        }
    )


def shifted(number, *shifts, size=48, hidden=None):
    item = scene(number, size=size, hidden=hidden)
    item["data_samples"].set_metainfo({"shifts": shifts})
    return item


def run(model, *scenes):
    return model(**model.data_preprocessor(batch(*scenes), training=True), mode="loss")


class Same(nn.Module):
    """In the place of a head."""

    def forward(self, x):
        return x


def test_an_equivariant_student_of_an_equal_teacher_has_no_loss():
    model = build({"shift": 2}, STUB, backbone=STUB).train()
    for part in model.distillation.values():
        part.head = Same()
    shifts = ((0, 0), (2, 1), (0, 2)), ((1, 2), (0, 0), (1, 2))
    losses = run(model, *(shifted(number, *each) for number, each in enumerate(shifts)))
    assert all(loss.abs() < 1e-6 for loss in losses.values())
    mixed = [shifted(0, (0, 0), (2, 1), (0, 2)), shifted(1, (1, 2), (0, 0), (1, 2))]
    model.student.encoder.weight.data += 0.1 * torch.randn_like(model.student.encoder.weight)
    assert all(loss > 1e-4 for loss in run(model, *mixed).values())


def test_maps_are_brought_over_to_the_place_of_the_student():
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(2, 3, 7, 7, generator=generator)
    theirs, ours = [(0, 2), (1, 1)], [(2, 1), (1, 1)]
    seen = torch.stack([whole[n, :, r : r + 5, c : c + 5] for n, (r, c) in enumerate(theirs)])
    wanted = torch.stack([whole[n, :, r : r + 5, c : c + 5] for n, (r, c) in enumerate(ours)])
    moved, overlap = brought_over(seen, theirs, ours)
    assert torch.equal(moved * overlap[:, None], wanted * overlap[:, None])
    assert overlap.sum((1, 2)).tolist() == [3 * 4, 25]
    assert overlap[0, :3, 1:].all()


def test_draws_belong_to_the_sample_and_cover_all_places():
    torch.manual_seed(0)
    drawn = [RandomShifts(2, 3)({})["shifts"] for _ in range(60)]
    assert {len(each) for each in drawn} == {3}
    assert {place for each in drawn for place in each} == {(row, column) for row in range(3) for column in range(3)}
    torch.manual_seed(0)
    assert RandomShifts(2, 3)({})["shifts"] == drawn[0]


def test_hidden_tokens_move_with_the_window():
    hidden = torch.zeros(1, 6, 6, dtype=torch.bool)
    hidden[0, 3, 4] = True
    model = build({"shift": 2}, teachers=("one",))
    data = model.data_preprocessor(batch(shifted(0, (1, 2), (0, 0), hidden=hidden)))
    seen, mask = model._hide(data["inputs"], data["data_samples"])
    assert mask.nonzero().tolist() == [[0, 2 * 4 + 2]]
    assert not seen[0, :, 16:24, 16:24].any() and seen[0, :, 16:24, 8:16].any()


def test_a_reduced_student_has_teachers_with_more_pixels():
    """The Gram anchor of DINOv3: twice the pixels, reduced by bicubic interpolation."""
    model = build({"reduction": 2}, teachers=("one",), distill=None, gram={"teacher": "one", "weight": 2.0})
    model.teachers["one"].scale = 2
    data = model.data_preprocessor(batch(scene(0, size=64)))
    loss = model(**data, mode="loss")["loss_gram"]
    student = model.student(F.avg_pool2d(data["inputs"], 2))[0].flatten(2).mT
    target = model.teachers["one"].backbone(data["inputs"])[0]
    target = F.interpolate(target, (4, 4), mode="bicubic", antialias=True).flatten(2).mT
    torch.testing.assert_close(loss, 2 * locality_loss(student, target, None))
    unit_s, unit_t = (F.normalize(x.double(), dim=-1) for x in (student, target))
    expected = F.mse_loss(unit_s @ unit_s.mT, unit_t @ unit_t.mT)  # DINOv3's GramLoss of whole images, normalized
    torch.testing.assert_close(loss.double(), 2 * expected, rtol=1e-6, atol=1e-7)
    model.predict(data["inputs"], data["data_samples"])
    assert data["data_samples"][0].alignment["locality_error"] == pytest.approx(float(expected), rel=1e-5)


def test_sizes_change_from_step_to_step_and_are_the_same_for_all():
    model = build({"sizes": [16, 48]}, teachers=("one",)).train()
    seen = []
    model.student.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[-1]))
    hidden = torch.zeros(1, 6, 6, dtype=torch.bool)
    hidden[0, :3] = True
    for _ in range(12):
        run(model, scene(0, size=48, hidden=hidden))
    assert set(seen) == {16, 24, 32, 40, 48}
    assert seen == [side_of_step(range(16, 49, 8), step) for step in range(12)]
    model.load_state_dict({**model.state_dict(), "steps": torch.tensor(3)})
    run(model, scene(0, size=48))
    assert seen[-1] == seen[3]


def test_a_batch_has_as_many_images_as_tokens_allow():
    model = build({"sizes": [16, 48], "tokens": 75}, teachers=("one",)).train()
    seen = []
    model.student.register_forward_pre_hook(lambda _, arguments: seen.append(tuple(arguments[0].shape[::3])))
    scenes = [scene(number, size=48) for number in range(20)]
    losses = [run(model, *scenes) for _ in range(12)]
    assert seen == [(min(20, 75 // (side // 8) ** 2), side) for _, side in seen]
    assert len({number for number, _ in seen}) > 2
    for step, (number, _) in enumerate(seen[:12]):  # each is the loss of a batch of these images alone
        model.load_state_dict({**model.state_dict(), "steps": torch.tensor(step)})
        torch.testing.assert_close(run(model, *scenes[:number]), losses[step])


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"sizes": [12, 48]}, "sizes 12 to 48 in steps of 8 .* patch size 8"),
        ({"sizes": [16, 44], "step": 16}, "multiples of the patch size"),
        ({"sizes": [48, 16]}, "least, greatest"),
        ({"step": 8}, "belongs to sizes"),
        ({"tokens": 99}, "tokens 99 belongs to sizes"),
        ({"sizes": [16, 48], "tokens": 35}, "tokens 35 are fewer than the 36 of one image of 48 pixels"),
        ({"shift": -1}, "shift -1"),
        ({"reduction": 0}, "reduction"),
        ({"shifts": 1}, "no option 'shifts'; did you mean 'shift'"),
    ],
)
def test_views_that_do_not_fit_are_refused(views, message):
    with pytest.raises(UserError, match=message):
        build(views)


def test_what_a_batch_lacks_is_named():
    with pytest.raises(UserError, match=r"0.png: views.shift 2 needs .* RandomShifts\(most=2, windows=3\)"):
        run(build({"shift": 2}), shifted(0, (0, 0)))
    with pytest.raises(UserError, match="shift 6 leaves nothing of images with 6 x 6 tokens"):
        run(build({"shift": 6}), shifted(0, (0, 0), (0, 0), (0, 0)))
    with pytest.raises(UserError, match="images of 32 x 32 are not square or smaller than"):
        run(build({"sizes": [40, 48]}).train(), scene(0))
    with pytest.raises(UserError, match="shift 1 moves the windows.*teachers one"):
        build({"shift": 1}, semantic={"teacher": "one"}, distill={"two": {}})


def test_no_view_is_every_image_as_it_comes():
    assert ViewOptions() == ViewOptions(1, None, None, 0)
    assert "steps" not in build().state_dict()
