"""Every task computes on a device that is not the CPU what it computes on the CPU, and forgets no tensor there."""

import os
import traceback

import pytest
import simulated_device
import torch
from children import CONTEXT

from pe_spatial.commands.shell import run_command

pytestmark = pytest.mark.skipif(
    not simulated_device.IS_POSSIBLE, reason="this torch cannot register a device that is written in Python"
)

TASKS = {
    "mask_rcnn": ("demo/mask_rcnn_tiny_shapes.yaml", []),
    "deta": ("demo/deta_tiny_shapes.yaml", ["model.tta={sizes: [64, 96], flip: true}"]),
    "deformable_detr": ("demo/deta_tiny_shapes.yaml", ["model.matching=one_to_one"]),
    "segmentation": ("demo/seg_linear_tiny_random.yaml", ["model.window={size: 48}"]),
    "mask_decoder": ("demo/seg_mask_decoder_tiny_shapes.yaml", []),
    "depth_bins": ("demo/depth_linear_tiny_shapes.yaml", []),
    "depth_dpt": ("demo/depth_dpt_tiny_shapes.yaml", []),
    "alignment": (
        "demo/alignment_tiny_shapes.yaml",
        ["model.student.weights=null", "model.teachers.core.weights=null"],
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder in which `demo/data` is what the configs of the demos read."""
    folder = tmp_path_factory.mktemp("simulated")
    arguments = ["--output", folder / "demo/data", "--images", 12, "--image-size", 64, "--no-photographs"]
    assert run_command("demo", [*map(str, arguments)]) == 0
    return folder


def in_child(function, folder, *arguments):
    """Run in a process of its own; its exception is raised here."""
    report = folder / f"{function.__name__}-{'-'.join(map(str, arguments))}.txt"
    process = CONTEXT.Process(target=_child, args=(report, function, folder, *arguments))
    process.start()
    process.join(200)
    assert process.exitcode == 0, report.read_text()


def _child(report, function, folder, *arguments):
    os.chdir(folder)
    torch.set_num_threads(1)
    simulated_device.register()
    try:
        function(*arguments)
    except BaseException:
        report.write_text(traceback.format_exc())
        os._exit(1)


# --- the device itself ------------------------------------------------------------------------------------------------
def test_it_has_the_rules_of_cuda(tmp_path):
    in_child(check_rules, tmp_path)


def check_rules():
    with simulated_device.simulating():
        there = torch.arange(6.0, device=simulated_device.DEVICE).requires_grad_()
        assert there.device == torch.device(simulated_device.DEVICE) and there.tolist() == [0, 1, 2, 3, 4, 5]
        (there * torch.tensor(2.0)).sum().backward()  # a number may come from the CPU
        assert there.grad.device == there.device and there.grad.tolist() == [2] * 6
        assert there[torch.tensor([1, 2])].tolist() == [1, 2]  # and so may indices
        assert (there.detach().cpu() + torch.ones(6)).tolist() == [1, 2, 3, 4, 5, 6]
        linear = torch.nn.Linear(6, 2).to(simulated_device.DEVICE)
        assert linear(there).device == there.device
        for forgotten in (
            lambda: there + torch.ones(6),
            lambda: torch.cat([there, torch.ones(1)]),
            lambda: torch.ones(6)[there.long()],
            lambda: linear(torch.ones(6)),
        ):
            with pytest.raises(RuntimeError, match="on the CPU of the shapes"):
                forgotten()


# --- every task -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", TASKS)
def test_a_task_trains_and_predicts_as_on_the_cpu(data, task):
    in_child(check_task, data, task)


def check_task(task):
    expected = step_and_predict(task, "cpu")
    with simulated_device.simulating():
        found = step_and_predict(task, simulated_device.DEVICE)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def step_and_predict(task, device):
    """The numbers of two predictions, the losses of a step of training, and the parameters after it."""
    from mmengine.dataset import pseudo_collate
    from mmengine.optim import OptimWrapper
    from mmengine.registry import DATASETS, MODELS

    from pe_spatial.training.config import load_config

    name, overrides = TASKS[task]
    config = load_config(name, overrides)
    torch.manual_seed(0)
    model = MODELS.build(config.model).to(torch.device(device))
    train = DATASETS.build(config.train_dataloader.dataset)
    if hasattr(model, "bind_dataset"):
        model.bind_dataset(train.metainfo)
    validation = DATASETS.build(config.val_dataloader.dataset)
    model.eval()
    numbers = []
    for sample in model.test_step(pseudo_collate([validation[0], validation[1]])):
        numbers += [values.cpu().float() for values in tensors_of(sample)]
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = OptimWrapper(torch.optim.SGD(parameters, lr=1e-3))
    losses = model.train_step(pseudo_collate([train[0], train[1]]), optimizer)
    numbers += [value.detach().cpu() for value in losses.values()]
    return numbers + [parameter.detach().cpu() for parameter in parameters]


def test_videos_are_tracked_as_on_the_cpu(tmp_path):
    in_child(check_tracker, tmp_path)


def check_tracker():
    from pe_spatial.demo.scenes import draw_video
    from pe_spatial.tracking.model import VideoTracker

    variant = {"base": "PE-Spatial-T16-512", "name": "two blocks", "depth": 2}
    torch.manual_seed(0)
    tracker = VideoTracker({"type": "PEBackbone", "variant": variant}, {"short_side": 96}, {"radius": 4}, recent=3)
    scenes = draw_video(4, size=(96, 144), frames=5)
    frames = [torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]
    mask = torch.from_numpy(scenes[0].ids).long()
    expected = list(tracker.track(frames, {0: mask}))
    tracker.labels.reset()
    with simulated_device.simulating():
        tracker.to(torch.device(simulated_device.DEVICE))
        found = [ids.cpu() for ids in tracker.track(frames, {0: mask})]
    assert all(map(torch.equal, found, expected))


def tensors_of(sample):
    """Sorted scores of objects, whose order may differ where they are equal; maps as they are."""
    for name in ("pred_sem_seg", "pred_depth", "pred_panoptic"):
        if name in sample:
            yield from sample.get(name).values()
    if "pred_instances" in sample:
        yield sample.pred_instances.scores.sort().values
