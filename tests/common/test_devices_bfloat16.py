"""Which processors multiply in bfloat16."""

import pytest
import torch

from pe_spatial.common import devices


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 avx512f", False), ("fpu avx512f avx512_bf16 sse", True), ("fpu amx_bf16 amx_tile", True)],
)
def test_a_cpu_says_so_in_its_flags(tmp_path, monkeypatch, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: X\nflags\t\t: {flags}\n")
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "cpuinfo")
    assert devices.multiplies_in_bfloat16(torch.device("cpu")) is expected


def test_without_flags_it_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "missing")
    assert not devices.multiplies_in_bfloat16(torch.device("cpu"))
    assert not devices.multiplies_in_bfloat16(torch.device("meta"))
