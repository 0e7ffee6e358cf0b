"""The planner: what it measures, how it continues it, what it chooses, and what it learns."""

import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from toy_task import load as load_toy

from pe_spatial.common.errors import ConfigError, NotEnoughMemory, OptionError, UserError
from pe_spatial.common.memory import gigabytes, parse_memory
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import train
from pe_spatial.training.planner import plan, planning
from pe_spatial.training.planner.costs import StepModel, _loss, _quiet, fit_steps, model_steps, small_sizes
from pe_spatial.training.planner.devices import CONSTANTS, learn
from pe_spatial.training.planner.fixed import FixedCost, count_fixed
from pe_spatial.training.planner.inputs import make_batch, training_size
from pe_spatial.training.planner.rescue import is_exhaustion, naming_exhaustion
from pe_spatial.training.planner.rows import batches, overrides_for
from pe_spatial.training.planner.tracking import StepTracker, follow_step
from pe_spatial.training.planner.variation import (
    Variation,
    build_model,
    depth_of,
    model_settings,
    prepare_iteration,
    variation_of,
    variations,
    with_depth,
)

CPU = torch.device("cpu")
TASKS = {
    "detection": ("demo/mask_rcnn_tiny_shapes",),
    "queries": ("demo/deta_tiny_shapes",),
    "panoptic": ("demo/seg_mask_decoder_tiny_shapes",),
    "depth": ("demo/depth_dpt_tiny_shapes",),
}


def config_of(task, *overrides, side=128):
    return load_config(TASKS[task][0], [f"model.data_preprocessor.pad_to=[{side}, {side}]", *overrides])


def tracked(config, images, size, blocks=None):
    settings = model_settings(config, variation_of(config))
    with _quiet(config, on_cuda=False):
        model = build_model(settings if blocks is None else with_depth(settings, blocks), "cpu")
        prepare_iteration(config, model)
        return follow_step(model, partial(_loss, model, config, variation_of(config), images, size))


# --- measuring --------------------------------------------------------------------------------------------------------
def test_the_tracker_counts_as_that_of_torch():
    """torch's keeps gradients, weights and what is temporary apart; the peak of the sum is the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 16), nn.LayerNorm(16))
    image = torch.rand(2, 3, 32, 32)
    theirs = MemTracker()
    theirs.track_external(model)
    totals, gradients = [], []
    theirs._update_peak_stats = lambda _: [
        (totals.append(held["Total"]), gradients.append(sum(held[kind] for kind in held if kind != "Total")))
        for held in theirs._curr_mem_snap.values()
    ]
    with theirs:
        model(image).square().sum().backward()
    model.zero_grad(set_to_none=True)
    fixed = sum(parameter.nbytes for parameter in model.parameters())
    with StepTracker(model) as ours:
        model(image).square().sum().backward()
    assert 0 < ours.most <= max(totals) - fixed <= ours.most + fixed
    assert ours.current == 0


def test_replaced_products_hold_what_real_ones_hold(monkeypatch):
    """A step with invented results and one that computes everything."""
    config = config_of("depth", side=256)
    invented = tracked(config, 2, (256, 256))
    monkeypatch.setattr("pe_spatial.training.planner.tracking._SMALL", 1e12)
    computed = tracked(config, 2, (256, 256))
    assert invented.activations == pytest.approx(computed.activations, rel=0.01)
    assert invented.operations == computed.operations > 1e9


@pytest.mark.parametrize("task", TASKS)
def test_a_third_size_and_batch_follow_from_the_measured_ones(task):
    config = config_of(task)
    steps = model_steps(config, variation_of(config), (256, 256), CPU, on_cuda=False)
    whole = tracked(config, 3, (256, 320))
    tolerance = 0.06 if task == "detection" else 0.05  # proposals are suppressed: their number is not affine
    assert steps.activations(3, (256, 320)) == pytest.approx(whole.activations, rel=tolerance)
    assert steps.operations(3, (256, 320)) == pytest.approx(whole.operations, rel=0.15)  # attention is quadratic
    sizes = [steps.activations(2, (side, side)) for side in (128, 192, 256, 512)]
    numbers = [steps.activations(images, (128, 128)) for images in (1, 2, 4, 8)]
    assert sizes == sorted(sizes) and numbers == sorted(numbers)


@pytest.mark.parametrize("change", ["checkpointing=true", "checkpointing=false", "frozen=4"])
def test_an_encoder_of_many_blocks_follows_from_few(change):
    """Nothing of its twelve blocks is built but six; windows are of another side."""
    variant = "{base: PE-Spatial-T16-512, name: T, width: 96, heads: 4}"
    overrides = [
        f"model.backbone.variant={variant}",
        "model.backbone.window=16",
        "model.backbone.global_blocks=[5, 11]",
    ]
    config = config_of("detection", *overrides, f"model.backbone.{change}", side=256)
    depth = depth_of(model_settings(config, variation_of(config)))
    assert depth.whole == (8 if "frozen" in change else 12) and max(depth.small) == 6
    steps = model_steps(config, variation_of(config), (256, 256), CPU, on_cuda=False)
    assert steps.activations(2, (256, 256)) == pytest.approx(tracked(config, 2, (256, 256)).activations, rel=0.05)


def test_a_plane_is_found_again():
    truth = torch.tensor([5e6, 1e6, 2e7, 3e8, 2e8, 4e5], dtype=torch.float64).numpy()
    model = StepModel(torch.tensor([[1.0, 1.0]] * 6).double().numpy() * truth[:, None], 12, 16)
    points = [(1, 4096, 4), (1, 9216, 4), (2, 4096, 4), (2, 9216, 4), (1, 4096, 6), (1, 9216, 6)]
    values = []
    for images, pixels, blocks in points:
        area = pixels / 1e6
        values.append(truth @ [1, images, area, images * area, images * area * blocks, blocks])
    found = StepModel(fit_steps(points, [(value, value) for value in values]), 12, 16)
    assert found.activations(7, (320, 480)) == pytest.approx(model.activations(7, (320, 480)))


@pytest.mark.parametrize(("size", "unit"), [((128, 128), 16), ((1024, 1024), 128), ((512, 1024), 16), ((16, 16), 16)])
def test_the_measured_sizes_differ_and_fit_patches(size, unit):
    smaller, larger = small_sizes(size, unit)
    assert smaller[0] * smaller[1] < larger[0] * larger[1] <= 512**2
    assert not any(side % unit for side in (*smaller, *larger))


def test_the_peak_is_that_of_the_passes_or_of_the_optimizer():
    fixed = FixedCost(weights=100, gradients=60, states=120, scratch=10)
    assert fixed.peak(500, accumulates=False) == 100 + 120 + 500
    assert fixed.peak(500, accumulates=True) == 100 + 120 + 60 + 500
    assert fixed.peak(5, accumulates=False) == 100 + 120 + 60 + 10


# --- configs ----------------------------------------------------------------------------------------------------------
def test_the_size_comes_from_the_config():
    assert training_size(load_config("detection/mask_rcnn_pe_spatial_b_coco_12ep_12gb")) == (1024, 1024)
    assert training_size(load_config("segmentation/mask_decoder_pe_spatial_b16_ade20k_12gb")) == (512, 512)
    assert training_size(load_config("depth/dpt4_pe_spatial_l14_nyu_12gb")) == (420, 546)  # a crop, padded to patches
    with pytest.raises(ConfigError, match="no train_dataloader"):
        training_size(load_config("tracking/baseline_color_davis2017"))


def test_a_model_without_a_training_has_no_plan():
    with pytest.raises(ConfigError, match=r"VideoTracker has none"):
        variation_of(load_config("tracking/dino_pe_spatial_b16_davis2017"))


ALIGNMENT = (
    "model.student.variant={base: PE-Spatial-T16-512, name: t, width: 64, heads: 2}",
    "model.teachers.teacher.variant={base: PE-Spatial-T16-512, name: u, width: 96, depth: 17, heads: 2}",
    "_image_size=64",
)


def test_the_student_of_an_alignment_is_planned_whole_and_with_its_teacher():
    """Shallow models of student and teacher continue to the whole of both; weights of the teacher are counted once."""
    config = load_config("own/alignment_teacher", ALIGNMENT)
    assert {way.tuning for way in variations(config)} == {"full"}
    steps = model_steps(config, variation_of(config), (64, 64), CPU, on_cuda=False)
    measured = tracked(config, 3, (64, 64))
    assert steps.operations(3, (64, 64)) == pytest.approx(measured.operations, rel=0.03)
    deeper = load_config("own/alignment_teacher", [*ALIGNMENT, "model.teachers.teacher.variant.depth=29"])
    assert tracked(deeper, 3, (64, 64)).activations == measured.activations
    whole = build_model(model_settings(config, variation_of(config)), "meta")
    teacher = sum(parameter.nbytes for parameter in whole.teachers["teacher"].parameters())
    fixed = count_fixed(config, variation_of(config), on_cuda=False)
    assert fixed.weights - teacher == sum(t.nbytes for t in (*whole.parameters(), *whole.buffers()))
    shallow = build_model(with_depth(model_settings(config, variation_of(config)), 4), "meta")
    assert len(shallow.teachers["teacher"].backbone.encoder.transformer.resblocks) == 17 - 4 * 4


def test_made_batches_keep_the_contract():
    config = config_of("panoptic")
    batch = make_batch(config, 2, (48, 64))
    sample = batch["data_samples"][1]
    assert batch["inputs"][0].dtype == torch.uint8 and batch["inputs"][0].shape == (3, 48, 64)
    assert sample.gt_sem_seg.data.shape == (1, 48, 64) and set(sample.gt_sem_seg.data.unique().tolist()) == {*range(5)}
    assert set(sample.gt_instances.labels.tolist()) == {2, 3, 4}
    assert sample.gt_instances.masks.shape[1:] == (48, 64) and sample.gt_instances.masks.flatten(1).any(1).all()


def test_ways_begin_with_the_config_and_need_no_more():
    ways = list(variations(config_of("detection")))
    assert ways[0] == Variation(False, "fp32", "full") and len(set(ways)) == len(ways)
    assert {way.precision for way in ways} == {"fp32", "bf16"} and {way.tuning for way in ways} >= {"full", "frozen"}
    assert all(way.tuning == "frozen" for way in variations(load_config("depth/dpt4_pe_spatial_l14_nyu_12gb")))


def test_overrides_keep_the_effective_batch_and_the_schedule():
    config = config_of("detection")
    assert batches(config) == [(1, 8), (2, 4), (4, 2), (8, 1)]
    way = Variation(True, "bf16", "frozen")
    overrides = overrides_for(config, way, (2, 4), (96, 96))
    changed = load_config(TASKS["detection"][0], overrides)
    assert (changed.train_dataloader.batch_size, changed.optim_wrapper.accumulative_counts) == (2, 4)
    assert changed.train_cfg.max_iters == 4 * config.train_cfg.max_iters
    assert changed.param_scheduler[0].end == changed.param_scheduler[1].begin == 4 * config.param_scheduler[0].end
    assert changed.default_hooks.checkpoint.interval == 4 * config.default_hooks.checkpoint.interval
    assert changed.model.data_preprocessor.pad_to == [96, 96] and variation_of(changed) == way
    assert not any(" " in override for override in overrides)  # a shell would part them
    assert overrides_for(config, variation_of(config), (8, 1), None) == ()


# --- plans ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def two_ways():
    """Plans of the config's own way and of the next: each way is measured at six sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "variations", lambda config: list(variations(config))[:2])
        yield


@pytest.fixture(scope="module")
def large(two_ways):
    return plan(config_of("depth"), 64e9, "cpu", shown=False)


def test_enough_memory_changes_nothing(large):
    assert large.chosen.overrides == () and large.chosen.fits
    assert [row.seconds for row in large.rows] == sorted(row.seconds for row in large.rows)
    assert large.fixed_size == "" and {row.image_size for row in large.rows} == {(128, 128), (96, 96), (64, 64)}


def test_less_memory_makes_a_smaller_row(monkeypatch):
    config = config_of("depth", "train_dataloader.batch_size=16")
    monkeypatch.setattr(planning, "operations_per_second", lambda *_: 1e9)
    monkeypatch.setattr(planning, "variations", lambda config: [variation_of(config)])
    held = planning.process_memory()  # of packages
    monkeypatch.setattr(planning, "process_memory", lambda: held)
    before = plan(config, 64e9, "cpu", shown=False).chosen
    after = plan(config, 0.8 * (before.need - held) + held, "cpu", shown=False).chosen
    assert before.batch == 16 and after.batch * after.accumulation == 16
    assert after.fits and after.need < before.need and after.image_size == before.image_size


def test_where_nothing_fits_the_smallest_is_named(large):
    none = planning.Plan(large.target, 1e6, tuple(large.rows), None, "")
    rows = tuple(planning.replace(row, fits=False) for row in none.rows)
    least = min(row.need for row in rows)
    with pytest.raises(UserError, match=rf"nothing fits into 0\.001 GB; the smallest needs {gigabytes(least)}"):
        planning.replace(none, rows=rows).chosen  # noqa: B018


def test_a_gpu_that_is_not_here_is_not_timed(two_ways, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = config_of("depth")
    found = plan(config, 12e9, "cuda", shown=False)
    assert all(row.seconds is None for row in found.rows) and found.chosen.need > CONSTANTS["cuda"].outside
    with pytest.raises(UserError, match="auto asks the GPU"):
        plan(config, None, "cuda", shown=False)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("12gb", 12e9), ("11.5GB", 11.5e9), ("800mb", 8e8), ("1gib", 2**30), ("24 gb", 24e9), ("auto", None)],
)
def test_memory_is_read(text, amount):
    assert parse_memory(text) == amount


@pytest.mark.parametrize("text", ["", "12", "gb", "-3gb", "0gb", "12 apples", "1e9", "12gb12", "nan gb", "١٢gb"])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(OptionError, match="write auto, or a number above 0"):
        parse_memory(text)


# --- cards ------------------------------------------------------------------------------------------------------------
def write_card(folder, device, **entry):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"device": device, "plan": entry}))


def test_cards_correct_the_constants(tmp_path):
    for index, ratio in enumerate((1.2, 1.3, 1.25, 40)):  # the last one shared its card
        entry = {"predicted_memory_gb": 2.0, "measured_memory_gb": 2 * ratio}
        write_card(tmp_path / f"run{index}", "Card X", **entry)
    write_card(tmp_path / "other", "Card Y", predicted_memory_gb=1.0, measured_memory_gb=3.0)
    write_card(tmp_path / "short", "Card X", not_predicted="too short", measured_memory_gb=3.0)
    write_card(tmp_path / "odd", "Card X", predicted_memory_gb="much", measured_memory_gb=float("nan"))
    (tmp_path / "odd" / "deeper").mkdir()
    (tmp_path / "odd" / "deeper" / "result.json").write_text("{")
    found = learn(CONSTANTS["cuda"], "Card X", tmp_path)
    assert (found.used, found.left_out) == (3, 5)
    assert found.constants.memory(1e9) == pytest.approx(1.25 * CONSTANTS["cuda"].memory(1e9))
    assert learn(CONSTANTS["cuda"], "Card Z", tmp_path).constants == CONSTANTS["cuda"]


def test_a_folder_without_cards_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no result\.json"):
        learn(CONSTANTS["cpu"], "any", tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        learn(CONSTANTS["cpu"], "any", tmp_path / "absent")


def test_a_run_writes_what_it_took(finished):
    card = json.loads((finished[1] / "result.json").read_text())["plan"]
    assert card["not_predicted"] == "6 iterations are fewer than 200"
    assert card["measured_seconds_per_image"] > 0 and card["batch"] == 2


# --- exhaustion -------------------------------------------------------------------------------------------------------
CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError(CPU_MESSAGE), MemoryError()],
)
def test_exhaustion_is_recognized(error):
    assert is_exhaustion(error) and not is_exhaustion(RuntimeError("shapes differ"))


def test_exhaustion_names_three_changes(two_ways):
    with pytest.raises(NotEnoughMemory, match="the cheapest changes") as caught, naming_exhaustion(config_of("depth")):
        raise RuntimeError(CPU_MESSAGE)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 3 and lines[0].split("GB")[1].split()[0] == "train_dataloader.batch_size=4"
    assert any("checkpointing=true" in line or "Bf16OptimWrapper" in line for line in lines)
    for line in lines:
        load_config(TASKS["depth"][0], line.split("GB")[1].replace("'", "").split())


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes differ"), naming_exhaustion(config_of("depth")):
        raise RuntimeError("shapes differ")


def test_a_training_without_memory_ends_in_one_error(finished, tmp_path, monkeypatch):
    """A model that no plan knows is told what helps in general."""
    config = load_toy(finished[0], tmp_path / "run")

    def exhaust(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("toy_task.ToyModel.forward", exhaust)
    with pytest.raises(
        NotEnoughMemory, match=r"exhausted \(CUDA out of memory\); lower it with one of: a smaller train"
    ):
        train(config)
