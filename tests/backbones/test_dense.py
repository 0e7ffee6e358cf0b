"""Backbones as others use them: the contract of every registered one, PEBackbone's options, and memory."""

from inspect import signature
from pathlib import Path

import pytest
import torch
from children import CONTEXT
from mmengine.registry import MODELS

from pe_spatial.backbones import PEBackbone
from pe_spatial.commands.benchmark.fidelity.rule import draw

TINY = {"patch_size": 16, "width": 32, "depth": 3, "heads": 2, "mlp_ratio": 2.0, "image_size": 64, "cls_token": True}
CORE = {**TINY, "attn_pool": True, "ln_post": True, "output_dim": 8}
GIANT = {**TINY, "patch_size": 14, "image_size": 56, "cls_token": False, "layer_scale": 0.1}
QUARTER = {"base": "PE-Spatial-B16-512", "name": "quarter", "depth": 3}
USES = {
    "spatial": {"variant": TINY},
    "core": {"variant": CORE, "norm": True},
    "levels": {"variant": CORE, "layers": [1, 0, -2]},
    "giant": {"variant": GIANT, "layers": [0, 2], "patch_size": 16},
    "windows": {"variant": TINY, "window": 2, "global_blocks": [1], "rope": "interpolate", "pos_embed": "tile"},
}


def registered_backbones():
    """Every backbone that is built from a variant; `test_timm_backbone` and `test_raw_color` test the others."""
    modules = {kind for kind in MODELS.module_dict.values() if kind.__module__.startswith("pe_spatial.backbones")}
    kinds = (kind for kind in modules if hasattr(kind, "layer_of") and "variant" in signature(kind).parameters)
    return sorted(kinds, key=lambda kind: kind.__name__)


def build(kind=PEBackbone, /, **options):
    torch.manual_seed(0)
    return MODELS.build({"type": kind.__name__, "variant": TINY, **options})


def images(height=64, width=96, batch=2):
    return draw(0, (batch, 3, height, width))


def gradients(backbone, x):
    backbone.zero_grad()
    loss = sum(m.square().mean() for m in backbone(x))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


# --- the contract -----------------------------------------------------------------------------------------------------
CONTRACT = pytest.mark.parametrize(
    ("kind", "options"),
    [pytest.param(kind, USES[use], id=f"{kind.__name__}-{use}") for kind in registered_backbones() for use in USES],
)


def test_ours_is_registered():
    assert PEBackbone in registered_backbones()


@CONTRACT
def test_maps_have_the_promised_channels_and_strides(kind, options):
    backbone = build(kind, **options)
    maps = backbone(images(64, 96))
    assert isinstance(maps, tuple)
    assert len(maps) == len(backbone.channels) == len(backbone.strides) == len(options.get("layers", [-1]))
    for m, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert m.shape == (2, channels, 64 / stride, 96 / stride)
    with pytest.raises(ValueError, match="not a multiple of the patch size"):
        backbone(images(70, 96))


@CONTRACT
def test_every_parameter_that_requires_a_gradient_gets_one_and_no_other(kind, options):
    """What a distributed optimizer needs: no parameter waits for a gradient that never comes."""
    backbone = build(kind, **options)
    grads = gradients(backbone, images())[1]
    assert set(grads) == {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert all(grad.abs().max() > 0 for grad in grads.values())


@CONTRACT
def test_layers_order_the_parameters_as_the_forward_pass_does(kind, options):
    backbone = build(kind, **options)
    layers = {name: backbone.layer_of(name) for name, _ in backbone.named_parameters()}
    assert set(layers.values()) == set(range(backbone.num_layers))
    for name, layer in layers.items():
        if ".resblocks." in name:
            assert layer == int(name.split(".resblocks.")[1].split(".")[0]) + 1
    for name in ("encoder.conv1.weight", "encoder.positional_embedding", "encoder.ln_pre.bias"):
        assert layers[name] == 0
    for name in ("conv1.weight", "encoder.head.weight", "neck.conv1.weight"):
        with pytest.raises(KeyError, match="is not a parameter"):
            backbone.layer_of(name)


@CONTRACT
@pytest.mark.parametrize("frozen", [True, 0, 1])
def test_frozen_is_frozen(kind, options, frozen):
    backbone = build(kind, **options, frozen=frozen, drop_path=0.5).train()
    count = backbone.num_layers if frozen is True else frozen + 1
    before = {name: p.clone() for name, p in backbone.named_parameters()}
    maps = backbone(images())
    if frozen is True:
        assert not any(m.requires_grad for m in maps)
        assert all(torch.equal(a, b) for a, b in zip(maps, backbone(images()), strict=True))  # no DropPath
        return
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1.0)
    sum(m.square().mean() for m in maps).backward()
    optimizer.step()
    for name, p in backbone.named_parameters():
        if backbone.layer_of(name) < count:
            assert not p.requires_grad and p.grad is None and torch.equal(p, before[name]), name


@CONTRACT
def test_checkpointing_changes_nothing_but_memory(kind, options):
    x = images()
    results = []
    for checkpointing in (False, True):
        backbone = build(kind, **options, checkpointing=checkpointing, drop_path=0.3).train()
        torch.manual_seed(1)  # for DropPath: the second computation must draw as the first
        results.append(gradients(backbone, x))
    (loss, grads), (same_loss, same_grads) = results
    assert torch.equal(loss, same_loss)
    assert set(grads) == set(same_grads)
    for name, grad in grads.items():
        torch.testing.assert_close(same_grads[name], grad, atol=1e-6, rtol=1e-5)


# --- PEBackbone -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_maps_are_the_tokens_of_the_encoder_in_place():
    backbone = build(layers=[0, 2]).eval()
    tokens = backbone.encoder.forward_features(images(), [0, 2])
    for m, t in zip(backbone(images()), tokens, strict=True):
        assert torch.equal(m[1, :, 2, 3], t[1, 1 + 2 * 6 + 3])
    assert all(key.startswith("encoder.") for key in backbone.state_dict())


@torch.no_grad()
def test_norm_is_the_final_norm_of_the_encoder():
    backbone = build(variant=CORE, norm=True).eval()
    torch.nn.init.normal_(backbone.encoder.ln_post.weight)
    expected = backbone.encoder.forward_features(images(), norm=True)[0][:, 1:].transpose(1, 2).unflatten(2, (4, 6))
    assert torch.equal(backbone(images())[0], expected)


def test_drop_path_rises_linearly_and_only_acts_in_training():
    backbone = build(drop_path=0.4)
    assert [block.drop_path.p for block in backbone.encoder.transformer.resblocks] == pytest.approx([0, 0.2, 0.4])
    x = images(batch=1)
    with torch.no_grad():
        expected = build().eval()(x)[0]
        assert torch.equal(backbone.eval()(x)[0], expected)
        torch.manual_seed(0)
        assert len({float(backbone.train()(x)[0].sum()) for _ in range(20)}) > 1


def test_drop_path_skips_whole_images_and_keeps_the_mean():
    backbone = build(variant={**TINY, "cls_token": False}, drop_path=0.5, window=2)
    block = backbone.train().encoder.transformer.resblocks[2]
    torch.manual_seed(0)
    dropped = block.drop_path(torch.ones(4000, 2, 1, 1))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped[:, 0], dropped[:, 1])  # all windows of an image share its fate
    assert dropped.mean() == pytest.approx(1, abs=0.1)


def test_patches_of_another_size_keep_the_grid_of_positions():
    backbone = build(variant="PE-Spatial-T16-512", patch_size=14)
    assert backbone.strides == (14,)
    assert backbone.encoder.conv1.weight.shape == (192, 3, 14, 14)
    assert backbone.encoder.positional_embedding.shape == (1 + 32 * 32, 192)
    assert backbone.config.image_size == 448


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "layers is empty"),
        ({"layers": [3]}, "block 3 does not exist"),
        ({"frozen": 4}, "frozen 4 exceeds the 3 blocks"),
        ({"frozen": -1}, "frozen -1"),
    ],
)
def test_options_are_checked_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_it_can_be_built_without_memory():
    with torch.device("meta"):
        backbone = build(variant="PE-Spatial-G14-448", window=32, global_blocks=[12, 24, 36, 49], patch_size=16)
    assert all(p.is_meta for p in backbone.parameters())
    with torch.no_grad():
        shapes = [m.shape for m in backbone(torch.zeros(1, 3, 1024, 1024, device="meta"))]
    assert shapes == [(1, 1536, 64, 64)]


def memory_of_loading(path, lean, report):
    """Write the peak of the memory while an encoder is built from a file, in copies of its weights."""

    def status(field):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    PEBackbone(QUARTER, weights=path)  # what is loaded of libraries at the first time does not count
    before = status("VmRSS")
    if lean:
        model = PEBackbone(QUARTER, weights=path)
    else:
        model = PEBackbone(QUARTER)
        model.encoder.load_state_dict(torch.load(path, weights_only=True))
    assert all(p.isfinite().all() for p in model.parameters())  # all of it is in memory now
    weights = sum(p.numel() * 4 for p in model.parameters())
    Path(report).write_text(str((status("VmHWM") - before) / weights))


def test_loading_never_holds_two_copies(tmp_path):
    """The peak of a process that builds an encoder from a file, and of one that builds first and loads afterwards."""
    path, report = str(tmp_path / "quarter.pt"), tmp_path / "report"
    torch.save(PEBackbone(QUARTER).encoder.state_dict(), path)

    def copies(lean):
        process = CONTEXT.Process(target=memory_of_loading, args=(path, lean, report))
        process.start()
        process.join(100)
        assert process.exitcode == 0
        return float(report.read_text())

    # pages that the system fetches back meanwhile count too, and can hide no copy
    assert min(copies(lean=True) for _ in range(2)) < 1.5
    assert copies(lean=False) > 1.8  # the measure would see a second copy
