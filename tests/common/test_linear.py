"""Linear layers by oneDNN do what those of PyTorch do, with gradients, and only where plain numbers are asked for."""

import pytest
import torch
from torch.nn import functional as F

from pe_spatial.common import devices
from pe_spatial.common import linear as module
from pe_spatial.common.linear import Linear, linear, plain_operators

SHAPE = (300, 160, 224)  # rows, K and N: more multiplications than what is too few


@pytest.fixture
def calls(monkeypatch):
    """How often oneDNN multiplies, on a processor for which it is the faster of both."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    made, multiply = [], module.multiply

    def counted(x, weight, bias):
        made.append(tuple(x.shape))
        return multiply(x, weight, bias)

    monkeypatch.setattr(module, "_is_faster_with_onednn", lambda: True)
    monkeypatch.setattr(module, "multiply", counted)
    return made


def example(requires_grad=False, bias=True):
    torch.manual_seed(0)
    rows, k, n = SHAPE
    tensors = [torch.randn(2, rows // 2, k), torch.randn(n, k) / k**0.5, torch.randn(n) if bias else None]
    return [tensor if tensor is None else tensor.requires_grad_(requires_grad) for tensor in tensors]


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_pytorch(bias, calls):
    results = []
    for function in (linear, F.linear):
        tensors = example(requires_grad=True, bias=bias)
        y = function(*tensors)
        y.sin().sum().backward()
        results.append([y.detach(), *(tensor.grad for tensor in tensors if tensor is not None)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    assert len(calls) == 3


def test_only_the_gradients_that_are_asked_for_are_computed(calls):
    x, weight, bias = example()
    y = linear(x, weight, bias.requires_grad_())
    assert y.grad_fn is not None, "a bias alone can be trained"
    y.sum().backward()
    assert x.grad is None and weight.grad is None and torch.equal(bias.grad, torch.full_like(bias, SHAPE[0]))


def test_second_derivatives_are_those_of_pytorch(calls):
    results = []
    for function in (linear, F.linear):
        x, weight, bias = example(requires_grad=True)
        (first,) = torch.autograd.grad(function(x, weight, bias).sin().sum(), x, create_graph=True)
        first.square().sum().backward()
        results.append(weight.grad)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_a_run_repeats_to_the_bit(calls):
    x, weight, bias = example()
    assert torch.equal(linear(x, weight, bias), linear(x.clone(), weight.clone(), bias.clone()))


def test_the_layer_has_the_parameters_of_pytorch(calls):
    layer, theirs = Linear(SHAPE[1], SHAPE[2]), torch.nn.Linear(SHAPE[1], SHAPE[2])
    theirs.load_state_dict(layer.state_dict())
    x = example()[0]
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert calls


def test_everything_else_is_left_to_pytorch(calls):
    """Few numbers, other types, autocast, traces, and modes that look at the operators."""
    x, weight, bias = example()
    linear(x[:1, :1], weight, bias)
    linear(x.double(), weight.double(), bias.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    layer = Linear(SHAPE[1], SHAPE[2])
    torch.export.export(layer, (x,))
    torch.jit.trace(layer, (x,), check_trace=False)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * SHAPE[0] * SHAPE[1] * SHAPE[2]
    torch.vmap(layer)(x)
    with plain_operators():
        layer(x)
    assert not calls


@pytest.mark.parametrize(
    ("maker", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("GenuineIntel", "AVX512", False),
        ("AuthenticAMD", "AVX2", False),
        ("", "AVX512", False),
    ],
)
def test_onednn_is_for_processors_of_other_makers_with_avx512(maker, capability, expected, monkeypatch):
    monkeypatch.setattr(module, "processor_maker", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert module._is_faster_with_onednn.__wrapped__() is expected


def test_the_maker_is_what_linux_or_windows_says(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(devices.platform, "processor", lambda: "AMD64 Family 25 Model 33 Stepping 2, AuthenticAMD")
    assert devices.processor_maker() == "AuthenticAMD"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\n")
    assert devices.processor_maker() == "GenuineIntel" and "Xeon" in devices.device_name("cpu")
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr(devices.platform, "processor", lambda: "arm")
    assert devices.processor_maker() == ""
