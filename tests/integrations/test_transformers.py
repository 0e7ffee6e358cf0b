"""PE as a backbone of transformers: its maps are PEBackbone's, its files are whole, and mistakes are named."""

import importlib
import json
import shutil
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("transformers")

import huggingface_hub
from small_heads import VARIANT
from torchvision.transforms import v2
from transformers import (
    CONFIG_MAPPING,
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    ViTConfig,
    ViTModel,
    backbone_utils,
)
from transformers.utils import hub, logging

from pe_spatial.backbones import PEBackbone, SimpleFeaturePyramid, get_variant
from pe_spatial.backbones.weights import to_timm
from pe_spatial.common.errors import ConfigError, MissingPackage, OptionError, UnknownName
from pe_spatial.common.tensors import WeightsError
from pe_spatial.data.preprocessor import DensePreprocessor
from pe_spatial.integrations.transformers import PEBackboneForTransformers, PEConfig, image_processor

logging.disable_progress_bar()
WITHOUT_CLS = {**VARIANT, "cls_token": False}
CORE = {**VARIANT, "base": "PE-Core-T16-384", "pool_heads": 2, "output_dim": 8}
LAYER_SCALE = {**WITHOUT_CLS, "layer_scale": 0.1}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(variant=VARIANT, **options):
    return PEBackboneForTransformers(PEConfig(variant=variant, **options)).eval()


def images(height=64, width=96):
    return torch.randn(2, 3, height, width)


def outputs(model, pixels):
    with torch.no_grad():
        return model(pixels).feature_maps


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


# --- maps, tokens, pyramids -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", [VARIANT, WITHOUT_CLS, CORE, LAYER_SCALE])
@pytest.mark.parametrize("options", [{}, {"norm": True}, {"window": 2, "global_blocks": [3], "rope": "interpolate"}])
@pytest.mark.parametrize("size", [(64, 64), (48, 112)])
def test_maps_are_those_of_pe_backbone(variant, options, size):
    model = build(variant, out_indices=[1, 3, 4], pos_embed="bicubic", **options)
    plain = PEBackbone(get_variant(variant), [0, 2, 3], pos_embed="bicubic", **options).eval()
    plain.load_state_dict(model.body.state_dict())
    pixels = images(*size)
    assert_equal(outputs(model, pixels), plain(pixels))
    assert model.channels == list(plain.channels)


@pytest.mark.parametrize("variant", [VARIANT, WITHOUT_CLS])
def test_tokens_are_the_maps_row_by_row_behind_one_for_the_whole_image(variant):
    model = build(variant, form="tokens", out_indices=[2, 4])
    pixels = images()
    for tokens, level in zip(outputs(model, pixels), model.body(pixels), strict=True):
        assert torch.equal(tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 6)), level)
        if variant is WITHOUT_CLS:
            torch.testing.assert_close(tokens[:, 0], level.mean(dim=(2, 3)))
    first = [tokens[:, 0] for tokens in model.body.encoder.forward_features(pixels, [1, 3])]
    if variant is VARIANT:
        assert_equal([tokens[:, 0] for tokens in outputs(model, pixels)], first)


def test_tokens_without_a_first_one():
    model = build(form="tokens", first_token=False)
    pixels = images()
    (tokens,) = outputs(model, pixels)
    assert tokens.shape == (2, 24, 32)
    assert torch.equal(tokens.transpose(1, 2).unflatten(2, (4, 6)), model.body(pixels)[0])


@pytest.mark.parametrize("stages", [[1, 2, 3, 4], [2, 3, 4], [3]])
def test_a_pyramid_is_that_of_vitdet_and_holds_what_is_asked_for(stages):
    model = build(form="pyramid", out_indices=stages, pyramid_channels=12, pyramid_stage=3)
    whole = SimpleFeaturePyramid(32, 16, 12).eval()
    missing, unexpected = whole.load_state_dict(model.pyramid.state_dict(), strict=False)
    assert not unexpected
    assert len({key.split(".")[0] for key in missing}) == 4 - len(stages)
    assert model.body.layers == (2,)
    pixels = images(64, 128)
    maps = outputs(model, pixels)
    with torch.no_grad():
        assert_equal(maps, [whole(model.body(pixels))[stage - 1] for stage in stages])
    assert [64 // level.shape[2] for level in maps] == [2 ** (stage + 1) for stage in stages]
    assert model.channels == [12] * len(stages)


def test_every_trainable_parameter_gets_a_gradient():
    for options in ({"out_indices": [1, 3]}, {"form": "pyramid", "out_indices": [2, 3, 4], "pyramid_stage": 2}):
        model = build(CORE, **options)
        sum(level.square().mean() for level in model(images()).feature_maps).backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name


def test_tuples_and_what_heads_hand_on():
    model = build()
    pixels = images()
    assert_equal(outputs(model, pixels), model(pixels, return_dict=False)[0])
    assert_equal(outputs(model, pixels), model.forward_with_filtered_kwargs(pixels, output_attentions=True)[0])


# --- stages -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({}, (3,)),
        ({"out_indices": [1, 4]}, (0, 3)),
        ({"out_indices": (1, 4)}, (0, 3)),
        ({"out_indices": [-3, -1]}, (1, 3)),
        ({"out_indices": [2, -1]}, (1, 3)),
        ({"out_features": ["stage2", "stage3"]}, (1, 2)),
        ({"out_features": ["stage2"], "out_indices": [2]}, (1,)),
    ],
)
def test_stages_by_number_name_and_from_the_end(options, layers):
    config = PEConfig(variant=VARIANT, **options)
    assert config.out_features == [f"stage{layer + 1}" for layer in layers]
    assert build(**options).body.layers == layers
    assert PEConfig.from_dict(config.to_dict()).out_features == config.out_features


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_features": ["stage5"]}, "no stage is called 'stage5'; did you mean 'stage4'"),
        ({"out_features": ["p2"], "form": "pyramid"}, "no stage is called 'p2'; it knows: stage1, stage2"),
        ({"out_indices": [5]}, "there is no stage 5; use 1 to 4, or -4 to -1"),
        ({"out_indices": [-6]}, "there is no stage -6"),
        ({"out_indices": [0, 1]}, "the stem .0. is not an output; use stages 1 to 4"),
        ({"out_features": ["stem"]}, "the stem .0. is not an output"),
        ({"out_indices": [-5]}, "the stem .0. is not an output"),
        ({"out_indices": [3, 1]}, "must be in the same order"),
        ({"out_indices": [3, -2]}, "duplicates"),
        ({"out_indices": [1], "out_features": ["stage2"]}, "same stages"),
        ({"form": "pyramid", "pyramid_stage": 5}, "pyramid_stage 5 is not a block; use 1 to 4, or -4 to -1"),
        ({"form": "pyramid", "pyramid_stage": 0}, "pyramid_stage 0 is not a block"),
        ({"form": "map"}, "form 'map' is not one of maps, tokens, pyramid"),
        ({"image_size": 100}, "image_size 100 is not a multiple of the patch size 16; use 96 or 112"),
        ({"image_size": (64, 72)}, "image_size .64, 72. is not a multiple"),
        ({"image_size": (64,)}, "is not a size"),
        ({"patch_size": (16, 8)}, "patches must be square"),
        ({"num_channels": 4}, "num_channels 4: the encoders need RGB"),
    ],
)
def test_stages_and_options_that_do_not_exist(options, message):
    with pytest.raises(OptionError, match=message):
        PEConfig(variant=VARIANT, **options)


def test_options_of_the_encoder_are_checked_by_the_encoder():
    with pytest.raises(OptionError, match="window 0 is not positive"):
        build(window=0)
    with pytest.raises(OptionError, match="frozen 9 exceeds the 4 blocks"):
        build(frozen=9)
    with pytest.raises(OptionError, match="height 70 is not a multiple of the patch size 16"):
        build()(torch.zeros(1, 3, 70, 64))


def test_stages_that_change_after_construction_are_refused():
    model = build()
    model.out_indices = [1, 2]
    with pytest.raises(OptionError, match=r"out_features became \['stage1', 'stage2'\] after construction"):
        model(images())


# --- configs ----------------------------------------------------------------------------------------------------------
def test_a_config_comes_back_from_json(tmp_path):
    config = PEConfig(
        variant=VARIANT,
        form="pyramid",
        out_indices=[-3, -1],
        window=2,
        global_blocks=[1, -1],
        rope=8,
        frozen=True,
        patch_size=(8, 8),
        image_size=(32, 48),
        id2label={0: "cat", 1: "dog"},
        dtype="bfloat16",
    )
    config.save_pretrained(tmp_path)
    for again in (PEConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(again) is PEConfig
        assert json.loads(again.to_json_string()) == json.loads(config.to_json_string())
        assert again.encoder == config.encoder
        assert again.encoder.image_size == 32  # the grid of 4 x 4 positions, on patches of 8
        assert (again.frozen, again.id2label, again.dtype) == (True, {0: "cat", 1: "dog"}, torch.bfloat16)


def test_sizes_are_those_of_the_variant():
    config = PEConfig(variant="PE-Spatial-L14-448")
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1024, 24, 16)
    assert (config.patch_size, config.image_size, config.out_features) == (14, 448, ["stage24"])
    assert PEConfig(variant="PE-Spatial-L14-448", patch_size=16).image_size == 512
    assert PEConfig(variant=get_variant(VARIANT)).encoder == get_variant(VARIANT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "PE-Spatial-S14-512"}, "did you mean 'PE-Spatial-S16-512'"),
        ({"variant": {**VARIANT, "widht": 8}}, "no field 'widht'; did you mean 'width'"),
        ({"windw": 4}, "no option 'windw'; did you mean 'window'"),
        ({"out_index": [1]}, "no option 'out_index'; did you mean 'out_indices'"),
        ({"layers": [-1]}, "no option 'layers'"),
        ({"hidden_size": 64}, r"no option 'hidden_size'.*sizes of the encoder are in variant"),
    ],
)
def test_unknown_names(options, message):
    with pytest.raises(UnknownName, match=message):
        PEConfig(**options)


def test_the_model_type_is_ours_alone():
    assert "pe_spatial" in CONFIG_MAPPING
    assert "pe_spatial" not in CONFIG_MAPPING._mapping  # those of transformers itself


# --- weights ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def official(tmp_path):
    """A file in the official layout, and its encoder."""
    encoder = PEBackbone(get_variant(VARIANT)).encoder
    torch.save(encoder.state_dict(), tmp_path / "official.pt")
    return tmp_path / "official.pt", encoder


@pytest.mark.parametrize("layout", ["official", "clip", "timm", "open_clip"])
def test_weights_of_any_layout(official, layout, tmp_path):
    path, encoder = official
    state = encoder.state_dict()
    if layout in ("timm", "open_clip"):
        state = to_timm(state)
    prefix = {"clip": "visual.", "open_clip": "visual.trunk."}.get(layout, "")
    torch.save({prefix + key: tensor for key, tensor in state.items()}, path)
    model = PEBackboneForTransformers.from_pe(VARIANT, path, out_indices=[2, 4]).eval()
    assert_equal(model.body.encoder.state_dict().values(), encoder.state_dict().values())
    model.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved")
    pixels = images()
    assert_equal(outputs(again, pixels), outputs(model, pixels))
    assert again.body.encoder.state_dict().keys() == encoder.state_dict().keys()


def test_what_does_not_fit_is_refused(official, tmp_path):
    path, _ = official
    with pytest.raises(WeightsError, match="does not fit"):
        PEBackboneForTransformers.from_pe({**VARIANT, "width": 64}, path)
    with pytest.raises(OptionError, match="an encoder of your own .custom. has no official weights; name a file"):
        PEBackboneForTransformers.from_pe(VARIANT)
    with pytest.raises(FileNotFoundError):
        PEBackboneForTransformers.from_pe(VARIANT, tmp_path / "nothing.pt")


@pytest.mark.parametrize("form", ["maps", "tokens", "pyramid"])
@pytest.mark.parametrize("loader", [PEBackboneForTransformers, AutoModel])
def test_a_saved_folder_is_read_again(form, loader, tmp_path):
    model = build(form=form, out_indices=[2, 3])
    model.save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path)
    assert type(again) is PEBackboneForTransformers
    assert not again.training
    pixels = images()
    assert_equal(outputs(again, pixels), outputs(model, pixels))
    held = load_file(tmp_path / "model.safetensors")
    assert held.keys() == model.state_dict().keys()
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert size < (tmp_path / "model.safetensors").stat().st_size < size + 20_000


def test_a_saved_folder_is_read_by_the_toolkit(tmp_path):
    model = build(form="pyramid")
    model.save_pretrained(tmp_path)
    plain = PEBackbone(get_variant(VARIANT), weights=str(tmp_path / "model.safetensors")).eval()
    pixels = images()
    assert_equal(plain(pixels), model.body(pixels))


def test_auto_backbone(tmp_path):
    model = build(out_indices=[2, 4])
    model.save_pretrained(tmp_path)
    assert type(AutoBackbone.from_config(model.config)) is PEBackboneForTransformers
    pixels = images()
    try:
        again = AutoBackbone.from_pretrained(tmp_path, out_indices=[2, 4])
    except huggingface_hub.errors.HFValidationError:  # transformers 5.24 takes a folder for a name on the hub
        again = PEBackboneForTransformers.from_pretrained(tmp_path, out_indices=[2, 4])
    assert_equal(outputs(again, pixels), outputs(model, pixels))


def test_options_change_while_a_folder_is_read(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, form="tokens", out_indices=[1, 3], frozen=True)
    assert again.body.layers == (0, 2)
    assert outputs(again, images())[0].shape == (2, 25, 32)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    with pytest.raises(OptionError, match="form 'map' is not one of"):
        AutoModel.from_pretrained(tmp_path, form="map")


def test_what_a_file_lacks_is_drawn_for_a_pyramid_and_refused_for_an_encoder(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, form="pyramid", out_indices=[1, 2, 3, 4])
    assert_equal(again.body.state_dict().values(), model.body.state_dict().values())
    torch.manual_seed(0)
    for name, parameter in SimpleFeaturePyramid(32, 16).named_parameters():
        found = again.pyramid.get_parameter(name)
        assert found.isfinite().all()
        assert found.abs().max() <= parameter.abs().max() * 1.5 + 1e-6, name
        assert found.std() == 0 or found.std() > parameter.std() / 2
    config = json.loads((tmp_path / "config.json").read_text())
    config["variant"]["layer_scale"] = 0.1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="lacks 8 tensors of the encoder .*ls_1.gamma.*from_pe"):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, tmp_path):
    model = build(out_indices=[1, 4])
    model.save_pretrained(tmp_path)
    pixels = images(48, 80)  # another grid: positions are resized
    for again in (
        AutoModel.from_pretrained(tmp_path, dtype=dtype),
        AutoModel.from_pretrained(tmp_path, torch_dtype=dtype),
        build(out_indices=[1, 4]).to(dtype),
    ):
        again.load_state_dict(model.state_dict())
        assert again.dtype == dtype
        for half, full in zip(outputs(again, pixels), outputs(model, pixels), strict=True):
            assert half.dtype == dtype
            assert torch.nn.functional.cosine_similarity(half.float(), full, dim=1).min() > 0.999
    again.save_pretrained(tmp_path / "half")
    assert AutoModel.from_pretrained(tmp_path / "half").dtype == dtype


@pytest.mark.parametrize("frozen", [False, True, 0, 2])
def test_frozen_and_unused_parameters_stay_so_after_reading(frozen, tmp_path):
    model = build(CORE, frozen=frozen, out_indices=[3], drop_path=0.1)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    expected = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in again.named_parameters()} == expected
    assert [block.training for block in again.train().body.encoder.transformer.resblocks] == [
        block.training for block in model.train().body.encoder.transformer.resblocks
    ]
    again.body.encoder.conv1.weight.requires_grad_(True)  # what the user changes later stays
    assert again.train().eval().body.encoder.conv1.weight.requires_grad


def test_a_folder_of_another_type(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTModel(ViTConfig(**sizes, image_size=32)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a model of type 'vit', not 'pe_spatial'; give another folder"):
        PEBackboneForTransformers.from_pretrained(tmp_path)


# --- the hub ----------------------------------------------------------------------------------------------------------
class FakeHub:
    """What transformers asks of the hub when it pushes; repositories are folders."""

    def __init__(self, root):
        self.root = root

    def create_repo(self, repo_id, **_):
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_commit(self, repo_id, operations, **_):
        for operation in operations:
            shutil.copy(operation.path_or_fileobj, self.root / repo_id / operation.path_in_repo)


def test_push_to_hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path)
    for module in list(sys.modules.values()):
        if getattr(module, "hf_api", None) is hub.hf_api and module.__name__.startswith("transformers"):
            monkeypatch.setattr(module, "hf_api", lambda: fake)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: _Card())
    model = build(out_indices=[2, 4])
    model.push_to_hub("me/backbone")
    image_processor(model.config).push_to_hub("me/backbone")
    again = AutoModel.from_pretrained(tmp_path / "me" / "backbone")
    pixels = images()
    assert_equal(outputs(again, pixels), outputs(model, pixels))
    assert AutoImageProcessor.from_pretrained(tmp_path / "me" / "backbone").size["height"] == 64


class _Card:
    def save(self, path):
        path = str(path)
        with open(path, "w") as file:
            file.write("a card\n")


# --- images -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_image_processor_makes_the_pixels_of_the_toolkit(mode, tmp_path):
    processor = image_processor(PEConfig(variant=VARIANT, image_size=(64, 96)))
    processor.save_pretrained(tmp_path)
    picture = Image.fromarray(torch.randint(256, (117, 85, 3), dtype=torch.uint8).numpy()).convert(mode)
    pixels = v2.functional.pil_to_tensor(picture.convert("RGB"))
    resized = v2.Resize((64, 96), antialias=True)(pixels)
    expected = DensePreprocessor()({"inputs": [resized]})["inputs"]
    for one in (processor, AutoImageProcessor.from_pretrained(tmp_path)):
        assert torch.equal(one(picture, return_tensors="pt")["pixel_values"], expected)
    plain = DensePreprocessor()({"inputs": [pixels[:, :112, :80]]})["inputs"]
    assert torch.equal(processor(pixels[:, :112, :80], do_resize=False, return_tensors="pt")["pixel_values"], plain)


# --- imports ----------------------------------------------------------------------------------------------------------
def test_a_missing_transformers_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pe_spatial.integrations")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingPackage, match=r"pip install 'pe_spatial\[transformers\]'"):
        importlib.import_module("pe_spatial.integrations.transformers")


def test_the_mixin_of_transformers_is_where_it_is_expected():
    assert issubclass(PEBackboneForTransformers, backbone_utils.BackboneMixin)
    assert PEBackboneForTransformers.__mro__[1] is backbone_utils.BackboneMixin
