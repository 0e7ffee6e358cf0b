"""Weights: every layout gives the same tensors, nothing is copied, and every bad file is named with its remedy."""

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pe_spatial.backbones import VARIANTS, EncoderConfig, PEBackbone, VisionTransformer, dense
from pe_spatial.backbones.weights import (
    find,
    load_state_dict,
    load_weights,
    source,
    to_detectron2,
    to_official,
    to_timm,
)
from pe_spatial.backbones.weights.layouts import recognize
from pe_spatial.backbones.weights.loading import expected_shapes, fitting_variants
from pe_spatial.backbones.weights.source import FOLDER_VARIABLE
from pe_spatial.common.errors import FullDiskError
from pe_spatial.common.tensors import WeightsError, write_tensor_file

RELEASED = [name for name in VARIANTS if name.startswith("PE-")]
KEYS = Path(__file__).parents[1] / "data" / "keys"
_SMALL = {"width": 32, "depth": 2, "heads": 4, "mlp_ratio": 2.0}
CORE = EncoderConfig(
    "core", 16, image_size=64, cls_token=True, ln_post=True, attn_pool=True, pool_heads=4, output_dim=12, **_SMALL
)
SPATIAL = EncoderConfig("spatial", 14, image_size=56, cls_token=False, layer_scale=0.1, **_SMALL)
BOTH = pytest.mark.parametrize("config", [CORE, SPATIAL], ids=lambda config: config.name)


def random_state(config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in expected_shapes(config).items()}


def prefixed(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


def save(content, path):
    torch.save(content, path)
    return path


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


# --- shapes and layouts -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", RELEASED)
def test_shapes_are_those_of_the_official_checkpoint(name):
    official = json.loads((KEYS / f"{name}.json").read_text())
    assert [(key, list(shape)) for key, shape in expected_shapes(VARIANTS[name]).items()] == list(official.items())
    assert name in fitting_variants(expected_shapes(VARIANTS[name]))


@pytest.mark.parametrize(
    ("file", "family", "variant", "grid"),
    [
        ("CLIP_PE-Core-T16-384", "CLIP", "PE-Core-T16-384", 24),
        ("d2_mask_rcnn_PEspatial_G_coco", "Detectron2", "PE-Spatial-G14-448", 32),
        ("deta_coco_1824pix", "DETA", "PE-Spatial-G14-448", 24),
        ("sam3_trunk", "SAM 3", "SAM3-L14-1008", 24),
    ],
)
def test_published_key_lists_are_recognized(file, family, variant, grid):
    shapes = json.loads((KEYS / f"{file}.json").read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    layout = recognize(tensors)
    encoder, ignored = to_official(tensors, layout)
    patch = encoder["conv1.weight"].shape[-1]
    config = replace(VARIANTS[variant], patch_size=patch, image_size=patch * grid)
    assert layout.family == family
    assert {key: tensor.shape for key, tensor in encoder.items()} == expected_shapes(config)
    assert len(encoder) + len(ignored) == len(tensors)


def containers(state):
    rotary = {
        "backbone.net.rope_win.freqs_cos": torch.ones(4, 8),
        "backbone.net.transformer.resblocks.0.attn.rope.freqs_sin": torch.ones(4, 8),
    }
    text = {"positional_embedding": torch.ones(5, 7), "transformer.resblocks.0.ln_1.weight": torch.ones(7)}
    heads = {"neck.simfp_4.0.weight": torch.ones(2), "roi_heads.box_head.conv1.weight": torch.ones(2, 2, 3, 3)}
    table = {**state, "positional_embedding": state["positional_embedding"][None]}
    return {
        "official": (state, 0),
        "CLIP": ({**prefixed("visual.", state), **text}, 2),
        "official, inside 'weights'": ({"weights": state, "epoch": 3}, 0),
        "official under module.": ({"state_dict": prefixed("module.", state)}, 0),
        "CLIP, inside 'state_dict'": ({"state_dict": prefixed("module.visual.", state), "epoch": 1}, 0),
        "pe_spatial": ({"state_dict": {**prefixed("backbone.encoder.", state), **heads}, "meta": {}}, 2),
        "Detectron2": ({"model": {**prefixed("backbone.net.", table), **rotary, **heads}}, 4),
        "Detectron2 alone": ({"model": prefixed("net.", table)}, 0),
        "DETA": ({"model": {**prefixed("backbone.0.body.", {**table, "fpn1.0.bias": torch.ones(2)}), **heads}}, 3),
        "timm": (to_timm(state), 1 if "proj" in state else 0),
        "timm, inside 'state_dict'": ({"state_dict": prefixed("model.", to_timm(state))}, 1 if "proj" in state else 0),
    }


@BOTH
@pytest.mark.parametrize("name", containers(random_state(SPATIAL)))
def test_every_layout_gives_the_official_tensors(tmp_path, config, name):
    state = random_state(config)
    content, ignored = containers(state)[name]
    found, report = load_state_dict(save(content, tmp_path / "file.pth"), config)
    assert_same(found, state)
    assert report.layout.family == re.match(r"\w+", name).group()
    assert len(report.ignored) == ignored
    assert (report.tensors, report.dtype) == (len(state), "float32")
    assert report.parameters == sum(tensor.numel() for tensor in state.values())


def test_report_reads_as_a_sentence(tmp_path):
    state = {key: tensor.half() for key, tensor in random_state(CORE).items()}
    path = save({"state_dict": {**prefixed("visual.", state), "logit_scale": torch.ones(())}}, tmp_path / "clip.pt")
    _, report = load_state_dict(path, CORE, dtype=torch.float32)
    count = len(state)
    assert str(report) == (
        f"{count} tensors, {report.parameters:,} parameters (float32) from {path} "
        "(CLIP layout, inside 'state_dict', under 'visual.'). "
        f"Converted: {count} tensors cast from float16 to float32. Ignored: 1 tensor (text tower: logit_scale)."
    )


@BOTH
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_what_is_written_is_what_is_read(tmp_path, config, suffix):
    state = random_state(config)
    for layout in (state, to_timm(state)):  # timm's has transposed views and views that share memory
        path = tmp_path / f"file{suffix}"
        write_tensor_file(layout, path)
        assert_same(load_state_dict(path, config)[0], state)


def test_torch_files_of_before_1_6_are_read(tmp_path):
    state = random_state(SPATIAL)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(load_state_dict(tmp_path / "old.pth", SPATIAL)[0], state)


# --- timm, the independent implementation -----------------------------------------------------------------------------
_TIMM_SIZES = {"T": "tiny", "S": "small", "B": "base", "L": "large", "G": "gigantic"}


def timm_name(name):
    _, kind, size, resolution = name.split("-")
    return f"vit_pe_{kind.lower()}_{_TIMM_SIZES[size[0]]}_patch{size[1:]}_{resolution}"


@pytest.mark.parametrize("name", [name for name in RELEASED if not name.endswith("Tiling")])
def test_timm_names_and_shapes(name):
    timm = pytest.importorskip("timm")
    config = VARIANTS[name]
    with torch.device("meta"):
        theirs = timm.create_model(timm_name(name), num_classes=config.output_dim or 0).state_dict()
    ours = to_timm({key: torch.empty(shape, device="meta") for key, shape in expected_shapes(config).items()})
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in theirs.items()}


@pytest.mark.parametrize(
    ("name", "config"), [("vit_pe_core_tiny_patch16_384", CORE), ("vit_pe_spatial_gigantic_patch14_448", SPATIAL)]
)
def test_timm_computes_the_same_from_the_same_file(tmp_path, name, config):
    timm = pytest.importorskip("timm")
    size = {"embed_dim": config.width, "depth": config.depth, "num_heads": config.heads, "mlp_ratio": config.mlp_ratio}
    theirs = timm.create_model(
        name, img_size=config.image_size, num_classes=config.output_dim or 0, ref_feat_shape=(4, 4), **size
    )
    if config.attn_pool:  # timm always pools with 8 heads
        config = replace(config, pool_heads=8)
    write_tensor_file(theirs.eval().state_dict(), tmp_path / "timm.safetensors")
    ours = VisionTransformer(config).eval()
    load_weights(ours, tmp_path / "timm.safetensors")
    x = torch.randn(2, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(x) if config.attn_pool else theirs.forward_features(x)
        assert (ours(x) - expected).abs().max() < 1e-5
    theirs.load_state_dict(to_timm(random_state(config)), strict=True)


# --- no second copy ---------------------------------------------------------------------------------------------------
def anonymous_memory():
    """Bytes of this process that are not pages of a file."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status).group(1))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured on Linux")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_is_loaded_without_a_copy(tmp_path, suffix):
    config = EncoderConfig("wide", 16, width=1024, depth=2, heads=16, mlp_ratio=4.0, image_size=64, cls_token=False)
    path = tmp_path / f"wide{suffix}"
    write_tensor_file({key: torch.zeros(shape) for key, shape in expected_shapes(config).items()}, path)
    with torch.device("meta"):
        encoder = VisionTransformer(config)
    before = anonymous_memory()
    load_weights(encoder, path)
    assert path.stat().st_size > 100e6
    assert anonymous_memory() - before < 10e6
    assert not any(parameter.is_meta for parameter in encoder.parameters())


def test_training_does_not_write_into_the_file(tmp_path):
    state = random_state(SPATIAL)
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"file{suffix}"
        write_tensor_file(state, path)
        encoder = VisionTransformer(SPATIAL)
        load_weights(encoder, path)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(1)
        assert_same(load_state_dict(path, SPATIAL)[0], state)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_loading_keeps_what_is_frozen(tmp_path, device):
    state = random_state(CORE)
    path = save(state, tmp_path / "file.pt")
    with torch.device(device):
        encoder = VisionTransformer(CORE)
    encoder.conv1.weight.requires_grad_(False)
    load_weights(encoder, path)
    assert_same(encoder.state_dict(), state)
    assert [name for name, parameter in encoder.named_parameters() if not parameter.requires_grad] == ["conv1.weight"]


def test_types_are_those_of_the_file_or_of_the_module(tmp_path):
    state = {key: tensor.bfloat16() for key, tensor in random_state(SPATIAL).items()}
    state["ln_pre.weight"] = state["ln_pre.weight"].float()
    path = save(state, tmp_path / "mixed.pt")
    found, report = load_state_dict(path, SPATIAL)
    assert_same(found, state)
    assert report.dtype == f"{len(state) - 1} bfloat16, 1 float32"
    encoder = VisionTransformer(SPATIAL)
    assert load_weights(encoder, path).conversions == [f"{len(state) - 1} tensors cast from bfloat16 to float32"]
    assert_same(encoder.state_dict(), {key: tensor.float() for key, tensor in state.items()})


# --- what is bridged --------------------------------------------------------------------------------------------------
def test_patches_are_resized_over_the_same_grid(tmp_path):
    state = random_state(SPATIAL)
    path = save(state, tmp_path / "file.pt")
    found, report = load_state_dict(path, replace(SPATIAL, patch_size=16, image_size=64))
    expected = F.interpolate(state["conv1.weight"], (16, 16), mode="bicubic", align_corners=False)
    assert_same(found, {**state, "conv1.weight": expected})
    assert report.conversions == ["patch embedding resized bicubically from 14x14 to 16x16 pixels"]


def test_a_backbone_resamples_only_patches_of_another_size(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(dense, "print_log", lambda message, logger: logged.append(message))
    trained = PEBackbone(SPATIAL, patch_size=16)  # a detector's encoder, for which the variant has patches of 14
    path = save({"state_dict": prefixed("backbone.", trained.state_dict())}, tmp_path / "trained.pth")
    assert_same(PEBackbone(SPATIAL, patch_size=16, weights=str(path)).state_dict(), trained.state_dict())
    other = save(random_state(SPATIAL), tmp_path / "other.pth")
    backbone = PEBackbone(SPATIAL, patch_size=16, weights=str(other))
    assert "resized bicubically from 14x14 to 16x16" in logged[-1]
    assert backbone.encoder.conv1.weight.shape == (32, 3, 16, 16)
    assert (backbone.patch_size, backbone.strides, backbone.config.grid_size) == (16, (16,), 4)


def test_patches_are_not_resized_over_another_grid(tmp_path):
    path = save(random_state(SPATIAL), tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=r"positional_embedding is \[16, 32\], not \[36, 32\]"):
        load_state_dict(path, replace(SPATIAL, patch_size=16, image_size=96))


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        ({"attn_pool": False, "ln_post": False, "output_dim": None}, set()),
        ({"attn_pool": False, "output_dim": None}, {"ln_post"}),
        ({"output_dim": None}, {"ln_post", "attn_pool"}),
    ],
)
def test_the_end_of_the_head_can_be_left_out(tmp_path, parts, kept):
    state = random_state(CORE)
    path = save(state, tmp_path / "core.pt")
    found, report = load_state_dict(path, replace(CORE, **parts))
    assert {key.split(".")[0] for key in found} & {"ln_post", "attn_pool", "proj"} == kept
    assert len(found) + len(report.ignored) == len(state)
    assert set(report.ignored.values()) == {"head that core does not have"}


def test_a_head_is_not_cut_in_the_middle(tmp_path):
    path = save(random_state(CORE), tmp_path / "core.pt")
    with pytest.raises(WeightsError, match=r"2 of \d+ keys unexpected"):
        load_state_dict(path, replace(CORE, ln_post=False))


def test_class_token_and_head_are_dropped_for_detection():
    state = random_state(CORE)
    encoder, dropped = to_detectron2(state, prefix="net.")
    assert set(dropped) == {key for key in state if key.startswith(("class_embedding", "ln_post", "attn_pool", "proj"))}
    assert torch.equal(encoder["net.positional_embedding"], state["positional_embedding"][None, 1:])
    assert len(encoder) + len(dropped) == len(state)


# --- bad files --------------------------------------------------------------------------------------------------------
class Opens:
    """An object whose unpickling makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def damaged(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def bad_file(kind, folder):
    state = random_state(SPATIAL)
    path = folder / "file.pt"
    texts = {
        "zero": b"",
        "html": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
        "other": b"GIF89a" + bytes(100),
        "pickle": b"\x80\x02not a pickle",
        "header": bytes(8) + b"{",
    }
    if kind in texts:
        path.write_bytes(texts[kind])
        return path
    if kind == "truncated torch":
        return damaged(save(state, path), 0.6)
    if kind == "truncated safetensors":
        save_file(state, path)
        return damaged(path, 0.6)
    if kind == "corrupt":
        content = bytearray(save(state, path).read_bytes())
        content[60:400] = b"\xff" * 340
        path.write_bytes(content)
        return path
    contents = {
        "list": [1, 2],
        "foreign": {"fc.weight": torch.ones(2)},
        "empty": {},
        "two": {**prefixed("student.encoder.", state), **prefixed("teacher.encoder.", state)},
        "integers": {**state, "conv1.weight": state["conv1.weight"].to(torch.int8)},
        "classifier": prefixed("", to_timm(random_state(CORE)) | {"head.bias": torch.ones(12)}),
    }
    return save(contents[kind], path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("zero", "is empty.*download it again"),
        ("html", "HTML page.*browser"),
        ("lfs", "Git LFS pointer.*git lfs pull"),
        ("other", "neither a torch nor a safetensors file.*GIF89a"),
        ("pickle", "truncated or corrupt"),
        ("header", "truncated or corrupt"),
        ("truncated torch", r"bytes\) is truncated or corrupt.*download it again"),
        ("truncated safetensors", r"bytes\) is truncated or corrupt.*download it again"),
        ("corrupt", "is damaged: 1 of its parts have a wrong checksum"),
        ("list", "contains a list, not a mapping.*save a state dict"),
        ("foreign", "no Perception Encoder among the 1 tensors.*fc.weight.*another file"),
        ("empty", "no Perception Encoder among the 0 tensors.*none"),
        ("two", "2 encoders.*student.encoder.*teacher.encoder.*only the one"),
        ("integers", "1 tensor of int8.*conv1.weight.*float32"),
        ("classifier", "head.bias.*not zero.*without output_dim"),
    ],
)
def test_bad_files_are_named_with_a_remedy(tmp_path, kind, message):
    path = bad_file(kind, tmp_path)
    with pytest.raises(WeightsError, match=f"(?s)^{re.escape(str(path))}.*{message}"):
        load_state_dict(path, SPATIAL)


def test_no_code_of_a_file_is_run(tmp_path):
    path = save({"state_dict": random_state(SPATIAL), "args": Opens(tmp_path / "made")}, tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=r"posix.mkdir.*could run any code: refused.*safetensors"):
        load_state_dict(path, SPATIAL)
    assert not (tmp_path / "made").exists()


def test_missing_and_unexpected_keys_are_counted_and_matched(tmp_path):
    state = random_state(SPATIAL)
    state["ln_pre.wieght"] = state.pop("ln_pre.weight")
    del state["transformer.resblocks.1.ls_2.gamma"]
    with pytest.raises(WeightsError) as error:
        load_state_dict(save(state, tmp_path / "file.pt"), SPATIAL)
    message = str(error.value)
    assert f"2 of {len(state) + 1} keys missing (ln_pre.weight, transformer.resblocks.1.ls_2.gamma)" in message
    assert f"1 of {len(state) + 1} keys unexpected (ln_pre.wieght (nearest missing: ln_pre.weight))" in message


def test_the_right_variant_is_named(tmp_path):
    # a view of one zero stands for the tensors: the file is small and has the real shapes
    shapes = expected_shapes(VARIANTS["PE-Lang-L14-448"])
    path = save({key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}, tmp_path / "file.pt")
    with pytest.raises(WeightsError) as error:
        load_state_dict(path, VARIANTS["PE-Spatial-L14-448"])
    assert "does not fit PE-Spatial-L14-448" in str(error.value)
    assert "The shapes fit PE-Lang-L14-448 or PE-Lang-L14-448-Tiling: use that variant" in str(error.value)


def test_an_unknown_encoder_is_described(tmp_path):
    with pytest.raises(WeightsError) as error:
        load_state_dict(save(random_state(SPATIAL), tmp_path / "file.pt"), CORE)
    message = str(error.value)
    assert "holds an encoder with 2 blocks, width 32, patch 14, 16 positions, LayerScale; core has 2 blocks" in message
    assert "17 positions, a class token, a final norm, attention pooling, a projection" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_found(tmp_path, value):
    state = random_state(SPATIAL)
    state["transformer.resblocks.1.mlp.c_fc.weight"][3, 5] = value
    with pytest.raises(WeightsError, match=r"NaN or Inf in 1 tensor .*resblocks.1.mlp.c_fc.weight.*diverged"):
        load_state_dict(save(state, tmp_path / "file.pt"), SPATIAL)


# --- finding ----------------------------------------------------------------------------------------------------------
COMMIT = "c" * 40


def describe_on_hub(monkeypatch, size, etag):
    """What the hub says of every file."""
    stated = SimpleNamespace(commit_hash=COMMIT, etag=etag, size=size)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: stated)


@pytest.fixture
def no_folder(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


@pytest.mark.parametrize("cached", [True, False])
def test_a_name_is_fetched_from_the_cache_or_the_hub(monkeypatch, no_folder, tmp_path, cached):
    asked = []

    def download(**arguments):
        asked.append(arguments)
        return str(tmp_path / "fetched.pt")

    content = b"weights"
    (tmp_path / "fetched.pt").write_bytes(content)
    official = {"repo_id": "facebook/PE-Spatial-B16-512", "filename": "PE-Spatial-B16-512.pt"}
    in_cache = {tuple(official.values()): str(tmp_path / "cached.pt")} if cached else {}
    describe_on_hub(monkeypatch, len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names, revision: in_cache.get(names))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert find("PE-Spatial-B16-512") == tmp_path / ("cached.pt" if cached else "fetched.pt")
    assert asked == ([] if cached else [{**official, "revision": COMMIT}])  # of the commit that was described


@pytest.mark.parametrize(
    ("size", "etag", "problem"),
    [
        (8, None, "7 bytes instead of 8"),
        (7, "0" * 64, f"SHA-256 {hashlib.sha256(b'weights').hexdigest()} instead of {'0' * 64}"),
        (None, hashlib.sha256(b"weights").hexdigest(), ""),
        (7, '"a-small-files-etag"', ""),
        (None, None, ""),
    ],
)
def test_a_download_is_the_file_that_the_hub_describes(monkeypatch, no_folder, tmp_path, size, etag, problem):
    blob, link = tmp_path / "blob", tmp_path / "PE-Spatial-B16-512.pt"
    blob.write_bytes(b"weights")
    link.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names, revision: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **arguments: str(link))
    describe_on_hub(monkeypatch, size, etag)
    if not problem:
        assert find("PE-Spatial-B16-512") == link
        return
    with pytest.raises(WeightsError, match=re.escape(f"({problem}), so it was removed; download it again")):
        find("PE-Spatial-B16-512")
    assert not blob.exists()
    assert not link.is_symlink()


def test_a_pinned_encoder_is_fetched_from_its_commit(monkeypatch, no_folder, tmp_path):
    monkeypatch.setitem(source.REVISIONS, "PE-Spatial-B16-512", "f" * 40)
    asked = []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names, **options: asked.append(options))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: asked.append(url))
    with pytest.raises(FileNotFoundError):
        find("PE-Spatial-B16-512")
    assert asked[0] == {"revision": "f" * 40}
    assert f"/resolve/{'f' * 40}/PE-Spatial-B16-512.pt" in asked[1]
    assert source.REVISIONS.keys() == VARIANTS.keys()


def test_without_network_the_message_says_where_to_put_the_file(monkeypatch, no_folder, tmp_path):
    def ask(url):
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names, revision: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)
    with pytest.raises(FileNotFoundError) as error:
        find("PE-Core-L14-336")
    message = str(error.value)
    assert "https://huggingface.co/facebook/PE-Core-L14-336 (ConnectionError: name resolution failed)" in message
    assert f"put PE-Core-L14-336.pt into a folder and set {FOLDER_VARIABLE}" in message
    assert "pass its path instead of the name 'PE-Core-L14-336'" in message
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(f"into the folder {tmp_path} ({FOLDER_VARIABLE})")):
        find("PE-Core-L14-336")


@pytest.mark.parametrize("place", ["PE-Core-L14-336.pt", "PE-Core-L14-336/PE-Core-L14-336.safetensors"])
def test_the_folder_of_weights_comes_before_the_hub(monkeypatch, tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.touch()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **arguments: pytest.fail("the hub was asked"))
    assert find("PE-Core-L14-336") == path


def test_paths_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.pt, \.pth or \.safetensors file in the folder"):
        find(tmp_path)
    (tmp_path / "config.yaml").touch()
    (tmp_path / "a.pth").touch()
    assert find(tmp_path) == find(str(tmp_path / "a.pth")) == tmp_path / "a.pth"
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(WeightsError, match=r"2 checkpoints in the folder .*a\.pth, b\.safetensors"):
        find(tmp_path)


def test_a_misspelled_name_gets_a_hint():
    with pytest.raises(FileNotFoundError, match="did you mean 'PE-Spatial-B16-512'"):
        find("PE-Spatial-B16-521")


# --- writing ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_failed_write_leaves_the_old_file(tmp_path, small_files, suffix):
    path = tmp_path / f"file{suffix}"
    write_tensor_file({"a": torch.ones(1)}, path)
    before = path.read_bytes()
    message = rf"{suffix} cannot be written .*needs 400,000 bytes and [\d,]+ are free"
    with small_files(100_000), pytest.raises(FullDiskError, match=message):
        write_tensor_file({"a": torch.zeros(100_000)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_view_does_not_drag_its_storage_along(tmp_path):
    write_tensor_file({"a": torch.zeros(1000, 1000)[:, :1]}, tmp_path / "file.pt")
    assert (tmp_path / "file.pt").stat().st_size < 10_000


def test_the_suffix_is_the_format(tmp_path):
    with pytest.raises(WeightsError, match=r"'\.bin'; a tensor file ends in \.pt, \.pth, \.safetensors"):
        write_tensor_file({}, tmp_path / "file.bin")
