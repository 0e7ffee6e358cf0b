"""Rotary positions: the definition, its invariances, and the cache."""

import threading

import pytest
import torch

from pe_spatial.backbones import VisionTransformer, apply_rotary, get_variant, rotary_table

CPU = torch.device("cpu")
HEAD = 16


def rotate_by_definition(x, height, width, offset=0, scale_y=1.0, scale_x=1.0):
    """Multiply pair i of the token at (row, column) by exp(j position frequency), one by one in double precision."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())  # [B, H, N, D/2]
    quarter = x.shape[-1] // 4
    for n in range(height * width):
        row, column = divmod(n, width)
        for i in range(quarter):
            frequency = 10000.0 ** (-i / quarter)
            pairs[:, :, n, i] *= torch.exp(torch.tensor(1j * (column * scale_x + offset) * frequency))
            pairs[:, :, n, quarter + i] *= torch.exp(torch.tensor(1j * (row * scale_y + offset) * frequency))
    return torch.view_as_real(pairs).flatten(-2)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (9, 2)])
def test_rotation_follows_the_definition(height, width):
    x = torch.randn(2, 3, height * width, HEAD)
    rotated = apply_rotary(x, rotary_table(height, width, HEAD, CPU))
    torch.testing.assert_close(rotated.double(), rotate_by_definition(x, height, width), atol=3e-6, rtol=0)


def test_reference_rescales_both_axes_to_a_grid():
    x = torch.randn(1, 1, 15, HEAD)
    rotated = apply_rotary(x, rotary_table(3, 5, HEAD, CPU, reference=8))
    expected = rotate_by_definition(x, 3, 5, scale_y=8 / 3, scale_x=8 / 5)
    torch.testing.assert_close(rotated.double(), expected, atol=3e-6, rtol=0)
    # on the reference grid itself nothing is rescaled
    assert torch.equal(rotary_table(8, 8, HEAD, CPU, reference=8), rotary_table(8, 8, HEAD, CPU))


def test_class_token_is_not_rotated_and_patches_start_at_one():
    x = torch.randn(1, 2, 13, HEAD)
    rotated = apply_rotary(x, rotary_table(3, 4, HEAD, CPU, cls_token=True))
    assert torch.equal(rotated[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(
        rotated[:, :, 1:].double(), rotate_by_definition(x[:, :, 1:], 3, 4, offset=1), atol=3e-6, rtol=0
    )


def test_scores_depend_on_differences_of_positions_only():
    q, k = torch.randn(2, 1, 1, 1, HEAD).expand(2, 1, 1, 30, HEAD)
    table = rotary_table(5, 6, HEAD, CPU)
    scores = torch.einsum("bhnd,bhmd->nm", apply_rotary(q, table), apply_rotary(k, table)).reshape(5, 6, 5, 6)
    torch.testing.assert_close(scores[:4, :5, :4, :5], scores[1:, 1:, 1:, 1:], atol=1e-5, rtol=0)
    assert not torch.allclose(scores[0, 0, 0, 1], scores[0, 1, 0, 0])  # but their sign matters


@pytest.mark.parametrize("compiled", [False, True])
def test_bfloat16_is_rotated_in_float32(compiled):
    table = rotary_table(40, 40, HEAD, CPU)
    x = torch.randn(1, 1, 1600, HEAD).bfloat16()
    rotate = torch.compile(apply_rotary, backend="eager", fullgraph=True) if compiled else apply_rotary
    rotated = rotate(x, table)
    assert rotated.dtype == torch.bfloat16
    assert torch.equal(rotated, apply_rotary(x.float(), table).bfloat16())


def test_the_arithmetic_of_compiled_graphs_gives_the_same():
    def score(q, height, width, reference):
        return apply_rotary(q, rotary_table(height, width, HEAD, q.device, reference=reference, cls_token=True))

    compiled = torch.compile(score, backend="eager", fullgraph=True)
    for height, width, reference in ((3, 4, None), (6, 2, 8), (5, 5, None)):
        q = torch.randn(2, 2, 1 + height * width, HEAD)
        torch.testing.assert_close(
            compiled(q, height, width, reference), score(q, height, width, reference), atol=1e-6, rtol=0
        )


def test_gradient_is_the_inverse_rotation():
    table = rotary_table(4, 4, HEAD, CPU)
    x = torch.randn(1, 2, 16, HEAD, requires_grad=True)
    y = apply_rotary(x, table)
    y.backward(y.detach())
    torch.testing.assert_close(x.grad, x.detach(), atol=1e-6, rtol=0)


def test_each_grid_is_computed_once():
    first, other = rotary_table(7, 9, HEAD, CPU), rotary_table(9, 7, HEAD, CPU)
    assert not torch.equal(first, other)
    assert rotary_table(7, 9, HEAD, CPU) is first  # also after another grid
    assert rotary_table(9, 7, HEAD, CPU) is other


def test_a_forward_pass_computes_no_angles(monkeypatch):
    model = VisionTransformer(get_variant({"base": "PE-Spatial-T16-512", "depth": 2, "image_size": 64})).eval()
    x = torch.randn(1, 3, 64, 96)
    expected = model(x)
    monkeypatch.setattr("pe_spatial.backbones.rope._compute_table", None)  # a call would fail
    assert torch.equal(model(x), expected)


def test_a_table_made_in_inference_mode_serves_training():
    with torch.inference_mode():
        rotary_table(11, 13, HEAD, CPU)
    x = torch.randn(1, 1, 143, HEAD, requires_grad=True)
    apply_rotary(x, rotary_table(11, 13, HEAD, CPU)).sum().backward()
    assert x.grad is not None


def test_threads_share_tables_of_different_grids():
    model = VisionTransformer(get_variant({"base": "PE-Spatial-T16-512", "depth": 1, "image_size": 64})).eval()
    images = [torch.randn(1, 3, 16 * h, 16 * w) for h, w in ((2, 3), (3, 2), (4, 4), (1, 5))]
    with torch.no_grad():
        expected = [model(x) for x in images]
    wrong = []

    def work(start):
        with torch.no_grad():
            for i in range(start, start + 20):
                if not torch.equal(model(images[i % 4]), expected[i % 4]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
