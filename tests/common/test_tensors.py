"""Tensor files: what is written is read, by content and not by name, and nothing in them is ever run."""

import os
import signal
import zipfile

import pytest
import torch

from pe_spatial.common import tensors
from pe_spatial.common.errors import FullDiskError, UserError
from pe_spatial.common.integrity import damaged_parts
from pe_spatial.common.tensors import WeightsError, read_tensor_file, tensor_bytes, write_tensor_file, write_torch_file


def test_nested_containers_come_back(tmp_path):
    content = {"frame": 5, "ids": [torch.arange(3), None], "state": {"a": (torch.ones(2), "text", 1.5, True)}}
    write_torch_file(content, tmp_path / "a.pt")
    found = read_tensor_file(tmp_path / "a.pt")
    assert found["frame"] == 5 and torch.equal(found["ids"][0], torch.arange(3))
    assert torch.equal(found["state"]["a"][0], torch.ones(2)) and found["state"]["a"][1:] == ("text", 1.5, True)
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_content_decides_not_the_name(tmp_path, suffix):
    write_tensor_file({"a": torch.arange(4.0)}, tmp_path / f"a{suffix}")
    (tmp_path / f"a{suffix}").rename(tmp_path / "a.bin")
    assert torch.equal(read_tensor_file(tmp_path / "a.bin")["a"], torch.arange(4.0))


def test_a_mapped_file_outlives_its_replacement(tmp_path):
    path = tmp_path / "a.pt"
    write_torch_file({"a": torch.zeros(100_000)}, path)
    found = read_tensor_file(path)
    write_torch_file({"a": torch.ones(100_000)}, path)
    assert not found["a"].any()
    assert read_tensor_file(path)["a"].all()


@pytest.mark.parametrize("content", [b"", b"no tensor file", b"PK\x03\x04 cut", b"\x80\x02 cut", bytes(8) + b"{"])
def test_a_bad_file_is_an_error_of_the_user_that_names_it(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"^{path} ") as caught:
        read_tensor_file(path)
    assert isinstance(caught.value, UserError) and isinstance(caught.value, ValueError)


def test_a_missing_file_is_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensor_file(tmp_path / "a.pt")


def test_a_full_disk_names_what_is_needed(tmp_path, small_files):
    content = {"a": torch.zeros(1000), "b": [torch.zeros(500, dtype=torch.int64)], "c": (torch.zeros(1).bool(), 3)}
    assert tensor_bytes(content) == 8001
    with small_files(4000), pytest.raises(FullDiskError, match=r"a\.pt cannot be written .*needs 8,001 bytes"):
        write_torch_file(content, tmp_path / "a.pt")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_until_the_file_is_written(number, tmp_path, monkeypatch):
    """In the midst of it, torch's writer would turn it into an error of its own."""
    write = tensors._Guarded.write

    def interrupted(self, data):
        signal.raise_signal(number)
        return write(self, data)

    monkeypatch.setattr(tensors._Guarded, "write", interrupted)
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_torch_file({"a": torch.ones(3)}, tmp_path / "a.pt")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert read_tensor_file(tmp_path / "a.pt")["a"].sum() == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_many_threads_find_what_is_damaged_and_nothing_else(tmp_path):
    """Threads that share one archive mix up its places in Python 3.13.0."""
    path = tmp_path / "many.pt"
    torch.save({f"part {number}": torch.randn(300 + number, 20) for number in range(40)}, path)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert [damaged_parts(path) for _ in range(10)] == [[]] * 10
        with zipfile.ZipFile(path) as archive:
            part = archive.getinfo("many/data/7")
        content = bytearray(path.read_bytes())
        content[part.header_offset + 2000] ^= 1
        path.write_bytes(content)
        assert damaged_parts(path) == ["many/data/7"]
    finally:
        torch.set_num_threads(before)
