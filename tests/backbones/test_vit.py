"""The encoder against itself, and under torch.compile and bfloat16."""

import pytest
import torch
from torch.utils import deterministic

from pe_spatial.backbones import VisionTransformer, get_variant
from pe_spatial.backbones.vit import merge_windows, resize_positions, split_windows, valid_tokens
from pe_spatial.commands.benchmark.fidelity.encoders import ENCODERS
from pe_spatial.commands.benchmark.fidelity.rule import draw

BASE = ENCODERS["spatial_cls"]


def encoder(fields=BASE, **options):
    torch.manual_seed(0)
    return VisionTransformer(get_variant(fields), **options).eval()


def images(height, width, batch=2, patch=16):
    return draw(0, (batch, 3, height * patch, width * patch))


# --- blocks and batches -----------------------------------------------------------------------------------------------
@torch.no_grad()
def test_any_list_of_blocks_equals_one_by_one():
    model, x = encoder(ENCODERS["core_cls"]), images(3, 5)
    for norm in (False, True):
        several = model.forward_features(x, [2, 0, -1, 2], norm)
        for tokens, block in zip(several, [2, 0, 3, 2], strict=True):
            assert torch.equal(tokens, model.forward_features(x, [block], norm)[0])


@torch.no_grad()
def test_blocks_after_the_last_wanted_one_are_not_run():
    model, x = encoder(), images(2, 2)
    expected = model.forward_features(x, [1])[0]
    model.transformer.resblocks[2] = torch.nn.Identity()  # takes one argument: running it would fail
    assert torch.equal(model.forward_features(x, [1])[0], expected)
    with pytest.raises(TypeError):
        model.forward_features(x, [2])


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"window": 2, "global_blocks": [3]}])
def test_a_batch_equals_its_images(options):
    model, x = encoder(**options), images(3, 5, batch=3)
    torch.testing.assert_close(model(x), torch.cat([model(one[None]) for one in x]), atol=3e-6, rtol=0)


def test_sizes_and_blocks_that_do_not_fit_are_named():
    model = encoder()
    with pytest.raises(ValueError, match="height 70 is not a multiple of the patch size 16; resize"):
        model(torch.zeros(1, 3, 70, 96))
    with pytest.raises(ValueError, match="width 90 is not a multiple of the patch size 16; resize"):
        model(torch.zeros(1, 3, 64, 90))
    with pytest.raises(ValueError, match="height 0 is not"):
        model(torch.zeros(1, 3, 0, 64))
    for block in (4, -5):
        with pytest.raises(ValueError, match=f"block {block} does not exist; use 0 to 3"):
            model.forward_features(images(2, 2), [block])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pos_embed": "nearest"}, "'nearest' is not one of bilinear"),
        ({"rope": "scaled"}, "'scaled' is not known; use 'extrapolate',"),
        ({"rope": 0}, "rope 0 is not known"),
        ({"window": 0}, "window 0 is not positive"),
        ({"window": 4, "global_blocks": [4]}, "block 4 does not exist"),
        ({"global_blocks": [1]}, "without a window"),
        ({"drop_path": 1.0}, "drop_path 1.0 is not a probability"),
    ],
)
def test_options_are_checked_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        encoder(**options)


@pytest.mark.parametrize("name", ENCODERS)
def test_new_weights_leave_nothing_uninitialized(name):
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = True  # torch.empty then gives NaN
    try:
        model = encoder(ENCODERS[name])
    finally:
        torch.use_deterministic_algorithms(False)
    for key, value in model.state_dict().items():
        assert value.isfinite().all(), key
        assert value.abs().max() <= 1.1, key
        zero = key.endswith("bias")
        assert (value.abs().max() == 0) == zero, key
    tokens = model.forward_features(images(3, 4, patch=model.config.patch_size))[0]
    assert 0.5 < tokens.std() < 2.5


# --- positions --------------------------------------------------------------------------------------------------------
def test_position_table_on_its_own_grid_is_itself():
    table = torch.randn(16, 5)
    for mode in ("bilinear", "bicubic", "tile"):
        assert resize_positions(table, 4, (4, 4), mode) is table


def test_tiling_repeats_the_table():
    table = torch.arange(4.0)[:, None]  # 0 1 / 2 3
    tiled = resize_positions(table, 2, (3, 5), "tile").reshape(3, 5)
    assert tiled.tolist() == [[0, 1, 0, 1, 0], [2, 3, 2, 3, 2], [0, 1, 0, 1, 0]]


def test_resizing_keeps_constants_and_slopes():
    for mode in ("bilinear", "bicubic"):
        constant = resize_positions(torch.full((16, 3), 0.7), 4, (7, 9), mode)
        torch.testing.assert_close(constant, torch.full((63, 3), 0.7))
    rows = torch.arange(8.0).repeat_interleave(8)[:, None]
    fine = resize_positions(rows, 8, (16, 8), "bilinear").reshape(16, 8)
    torch.testing.assert_close(
        fine[4:12, 0], torch.arange(4, 12) / 2 - 0.25
    )  # half-pixel centers, away from the border


@torch.no_grad()
def test_rope_options_agree_on_the_pretraining_grid_and_differ_elsewhere():
    models = [encoder(rope=rope) for rope in ("extrapolate", "interpolate", 8)]
    native, large = images(8, 8), images(12, 8)
    raw, scaled, same = (model(native) for model in models)
    torch.testing.assert_close(raw, scaled, atol=1e-6, rtol=0)
    assert torch.equal(scaled, same)
    raw, scaled, same = (model(large) for model in models)
    assert (raw - scaled).abs().max() > 0.01
    assert torch.equal(scaled, same)


# --- windows ----------------------------------------------------------------------------------------------------------
def test_windows_are_cut_row_by_row():
    x = torch.arange(16.0).reshape(1, 16, 1)
    assert split_windows(x, (4, 4), 2)[0, :, :, 0].tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


@pytest.mark.parametrize("grid", [(4, 8), (5, 7), (1, 9), (3, 3)])
@pytest.mark.parametrize("size", [2, 4, 5])
def test_merging_undoes_splitting(grid, size):
    x = torch.randn(2, grid[0] * grid[1], 3)
    windows = split_windows(x, grid, size)
    assert torch.equal(merge_windows(windows, grid, size), x)
    torch.testing.assert_close(windows.sum(), x.sum())  # the padding is zero
    valid = valid_tokens(x, grid, size)
    if valid is None:
        assert windows.numel() == x.numel()
    else:
        assert valid.sum() == grid[0] * grid[1]
        assert torch.equal(windows * valid, windows)


def run_by_block(model, x, window, global_blocks):
    """The official detectors' way: every windowed block cuts after its norm and merges before its sum."""
    grid = model.grid(x)
    tokens = model._embed(x, grid)
    for i, block in enumerate(model.transformer.resblocks):
        y = block.ln_1(tokens)
        if i in global_blocks:
            y = block.attn(y, model.rope(grid, x.device))
        else:
            y = block.attn(split_windows(y, grid, window), model.rope((window, window), x.device))
            y = merge_windows(y, grid, window)
        tokens = tokens + (y if block.ls_1 is None else y * block.ls_1.gamma)
        y = block.mlp(block.ln_2(tokens))
        tokens = tokens + (y if block.ls_2 is None else y * block.ls_2.gamma)
    return tokens


@torch.no_grad()
@pytest.mark.parametrize("grid", [(8, 8), (5, 6), (3, 11)])
@pytest.mark.parametrize("global_blocks", [(), (0,), (1, 3)])
def test_staying_in_windows_equals_cutting_in_every_block(grid, global_blocks):
    options = {"window": 4, "global_blocks": global_blocks, "rope": "interpolate", "pos_embed": "tile"}
    model = encoder({**BASE, "cls_token": False, "layer_scale": 0.5}, **options)
    for block in model.transformer.resblocks:  # a norm whose bias is not zero shows where padding goes through it
        torch.nn.init.normal_(block.ln_1.bias)
    x = images(*grid)
    expected = run_by_block(model, x, 4, global_blocks)
    torch.testing.assert_close(model(x), expected, atol=5e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("fields", [BASE, {**BASE, "cls_token": False}], ids=["cls", "nocls"])
def test_one_window_over_the_map_is_global_attention(fields):
    x = images(6, 6)
    windowed = encoder(fields, window=6)
    all_global = encoder(fields, window=6, global_blocks=range(4))
    torch.testing.assert_close(windowed(x), all_global(x), atol=3e-6, rtol=0)


@torch.no_grad()
def test_windows_leave_the_class_token_out():
    """A class token has no place in a window: the encoder then is the one without it, with the same patch weights."""
    with_cls = encoder(BASE, window=4, global_blocks=[3])
    without = encoder({**BASE, "cls_token": False}, window=4, global_blocks=[3])
    state = with_cls.state_dict()
    del state["class_embedding"]
    state["positional_embedding"] = state["positional_embedding"][1:]
    without.load_state_dict(state)
    x = images(5, 7)
    assert with_cls(x).shape == (2, 35, 64)
    assert torch.equal(with_cls(x), without(x))


@torch.no_grad()
def test_windows_do_not_see_each_other():
    model, x = encoder(window=4), images(8, 8)
    changed = x.clone()
    changed[..., :64, :64] += 1
    difference = (model(x) - model(changed)).abs().amax(dim=(0, 2)).reshape(8, 8)
    assert (difference[:4, :4] > 1e-3).all()
    difference[:4, :4] = 0
    assert difference.max() == 0


# --- numbers and compilers --------------------------------------------------------------------------------------------
@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_close_to_float32(autocast):
    model, x = encoder(ENCODERS["spatial_nocls_ls"]), images(20, 20, batch=1, patch=14)
    expected = model(x)
    if autocast:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x)
    else:
        output = model.bfloat16()(x.bfloat16())
        assert output.dtype == torch.bfloat16
    error = (output.float() - expected).pow(2).mean().sqrt() / expected.std()
    assert 1e-5 < error < 0.02


ANY_SIZE = ((8, 8), (5, 7), (4, 9), (8, 8), (11, 5), (6, 10), (3, 5), (7, 9), (9, 11), (10, 13), (2, 6))
COMPILED = {  # encoder, options, sizes, graphs: one for the first size, then one for all; padding is a case of its own
    "core_cls": ({**ENCODERS["core_cls"], "depth": 1}, {}, ANY_SIZE, 2),
    "windows": (
        {**BASE, "depth": 2, "cls_token": False},
        {"window": 4, "global_blocks": [1]},
        ((8, 8), (5, 7), (9, 6)),
        2,
    ),
    "training": ({**BASE, "depth": 2}, {"drop_path": 0.2, "checkpointing": True}, ANY_SIZE, 2),
}


@pytest.mark.parametrize("name", COMPILED)
def test_one_graph_without_breaks_at_every_size(name):
    fields, options, grids, expected = COMPILED[name]
    model = encoder(fields, **options).train(name == "training")
    torch.compiler.reset()
    graphs = []

    def collect(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, backend=collect, fullgraph=True)
    for grid in grids:
        x = images(*grid)
        torch.manual_seed(0)
        output = compiled(x)
        torch.manual_seed(0)
        torch.testing.assert_close(output, model(x), atol=5e-6, rtol=0)
    assert len(graphs) == expected


def test_inductor_gives_the_same():
    from torch._inductor import config as inductor

    model, x = encoder({**BASE, "depth": 1}), images(4, 5, batch=1)
    torch.compiler.reset()
    # no workers, no precompiled headers, and no vectors, whose instruction sets would have to be tried one by one
    cheap = inductor.patch({"compile_threads": 1, "cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": False})
    with torch.no_grad(), cheap:
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x), atol=5e-6, rtol=0)
