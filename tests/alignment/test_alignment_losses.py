"""The losses against their plain formulas, in value, gradient and memory."""

import pytest
import torch
from torch.nn import functional as F

from pe_spatial.alignment.losses import locality_loss, semantic_loss, target_similarity


def plain_locality(student, teacher, temperature):
    """Equation 3 of the paper, with both matrices whole."""
    c_s = F.cosine_similarity(student[:, :, None], student[:, None], dim=-1)
    c_t = F.cosine_similarity(teacher[:, :, None], teacher[:, None], dim=-1)
    if temperature is not None:
        c_t = torch.exp(temperature * (c_t - 1))
    return (c_s - c_t).square().mean()


def tokens(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("chunk", [1, 50, 81, 200, 10_000], ids=lambda c: f"chunk{c}")
@pytest.mark.parametrize("temperature", [20.0, 3.0, None])
def test_locality_equals_the_plain_formula_and_its_gradient(chunk, temperature):
    """Chunks of a row, of several rows, of one image, of two images, of everything."""
    student, teacher = tokens(3, 9, 5).requires_grad_(), tokens(3, 9, 7, seed=1)
    teacher = teacher + 3 * tokens(3, 1, 7, seed=2)  # cosines near 1 count at t = 20
    expected = plain_locality(student, teacher, temperature)
    (gradient,) = torch.autograd.grad(2.5 * expected, student)
    ours = locality_loss(student, teacher, temperature, chunk=chunk)
    (our_gradient,) = torch.autograd.grad(2.5 * ours, student)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-10, atol=1e-14)


def test_locality_passes_gradcheck():
    student, teacher = tokens(2, 4, 3).requires_grad_(), tokens(2, 4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda s: locality_loss(s, teacher, chunk=7), (student,))


def test_semantic_equals_the_plain_formula_with_its_minus():
    student, teacher = tokens(2, 6, 4).requires_grad_(), tokens(2, 6, 4, seed=1)
    expected = -torch.stack(
        [s @ t / (s.norm() * t.norm()) for s, t in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True)]
    ).mean()
    torch.testing.assert_close(semantic_loss(student, teacher), expected, rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda s: semantic_loss(s, teacher), (student,))


def test_limits():
    """-1 where the tokens agree; 0 where the student separates what the teacher separates, however long its vectors."""
    teacher = tokens(2, 6, 8)
    assert semantic_loss(3 * teacher, teacher).item() == pytest.approx(-1)
    assert semantic_loss(-teacher, teacher).item() == pytest.approx(1)
    segments = torch.tensor([0, 0, 1, 1, 2, 2])
    masks = torch.eye(3, dtype=torch.float64)[segments][None] * 2 - 1  # logits of three masks: cosines 1 and -1/3
    student = torch.eye(3, dtype=torch.float64)[segments][None] * torch.arange(1, 7)[:, None]
    assert locality_loss(student, masks).item() < 1e-20
    assert locality_loss(student.flip(1), masks).item() < 1e-20  # the same segments in another order of channels
    merged = student.clone()
    merged[:, 2:4] = merged[:, :2]
    assert locality_loss(merged, masks).item() == pytest.approx(8 / 36)


def test_the_temperature_makes_the_target_nearly_binary():
    values = torch.tensor([1.0, 0.95, 0.9, 0.8, 0.5])
    expected = torch.tensor([1.0, 0.368, 0.135, 0.018, 5e-5])  # the table of the paper's formula
    torch.testing.assert_close(target_similarity(values, 20.0), expected, rtol=0, atol=1e-3)


def test_no_gradient_reaches_the_teacher():
    student, teacher = tokens(1, 4, 3).requires_grad_(), tokens(1, 4, 3, seed=1).requires_grad_()
    locality_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_bfloat16_tokens_are_compared_in_float32():
    student, teacher = tokens(2, 16, 8).bfloat16(), tokens(2, 16, 8, seed=1).bfloat16()
    expected = locality_loss(student.double(), teacher.double())
    with torch.autocast("cpu", torch.bfloat16):
        leaf = student.requires_grad_()
        ours = locality_loss(leaf, teacher)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    ours.backward()
    assert leaf.grad.dtype == torch.bfloat16
    assert semantic_loss(student, teacher).dtype == torch.float32


class Allocations(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor that any operation makes, forward and backward."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("images", [1, 4])
def test_memory_does_not_grow_with_the_pairs_of_a_batch(images):
    """The largest tensor is a chunk or the tokens themselves, never 256 x 256 pairs; nor is more kept for later."""
    student, teacher = tokens(images, 256, 4).requires_grad_(), tokens(images, 256, 4, seed=1)
    kept = []
    with (
        Allocations() as watch,
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t),
    ):
        locality_loss(student, teacher, chunk=2048).backward()
    assert watch.largest <= max(2048, student.numel())
    assert sum(kept) <= 8 * student.numel()


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"student tokens \[1, 4, 3\] and teacher tokens \[1, 4, 5\].*projection"):
        semantic_loss(tokens(1, 4, 3), tokens(1, 4, 5))
    with pytest.raises(ValueError, match=r"\[1, 4, 3\].*\[1, 9, 3\].*one grid"):
        locality_loss(tokens(1, 4, 3), tokens(1, 9, 3))
