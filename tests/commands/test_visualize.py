import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image
from small_checkpoints import tracker_config

from pe_spatial.backbones import VARIANTS, EncoderConfig, PEBackbone
from pe_spatial.commands import visualize
from pe_spatial.commands.encoder_options import open_extractor
from pe_spatial.commands.shell import parse, run_command
from pe_spatial.common.tensors import write_tensor_file
from pe_spatial.demo.scenes import draw_video
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe
from pe_spatial.training.config import load_config

TINY = EncoderConfig("tiny", patch_size=8, width=32, depth=3, heads=2, mlp_ratio=2, image_size=64, cls_token=True)
CONFIG = (
    tracker_config(depth=3)
    + """
test_dataloader: {dataset: {type: ImageFolder, source: in, pipeline: [{type: LoadImage}, {type: PackSample}]}}
"""
)


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    (tmp_path / "in/deep").mkdir(parents=True)
    frames = [scene.image for scene in draw_video(1, size=(64, 96), frames=3)]
    for name, frame in zip(("a.png", "deep/a.jpg", "b.png"), frames, strict=True):
        Image.fromarray(frame).save(tmp_path / "in" / name)
    video = cv2.VideoWriter(str(tmp_path / "moving.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (96, 64))
    for frame in frames:
        video.write(np.ascontiguousarray(frame[:, :, ::-1]))
    video.release()
    return tmp_path


def run(root, source, *more, encoder=("--encoder", "tiny", "--weights", "none")):
    arguments = [*encoder, "--input", str(root / source), "--output", str(root / "out"), "--device", "cpu", *more]
    torch.manual_seed(0)
    return run_command("visualize", arguments)


def picture(root, name):
    return torch.from_numpy(np.array(Image.open(root / "out" / name))).permute(2, 0, 1)


def test_a_folder_keeps_its_names_and_shows_every_layer(scenes):
    assert run(scenes, "in", "--layers", "-3,-1") == 0
    assert {path.relative_to(scenes / "out").as_posix() for path in (scenes / "out").rglob("*.*")} == {
        "a.png",
        "b.png",
        "deep/a.png",
    }
    assert picture(scenes, "a.png").shape[2] == 3 * 480  # the image and two layers, 320 x 480 each
    assert run(scenes, "in/a.png", "--layers", "0,1,2", "--point", "20,30") == 0
    rows = picture(scenes, "a.png")
    assert rows.shape[2] == 4 * 480
    assert rows.shape[1] % 2 == 0


def test_the_features_are_those_of_the_backbone(scenes):
    options, _ = parse(
        "visualize",
        visualize,
        [
            "--encoder",
            "tiny",
            "--weights",
            "none",
            "--layers",
            "1,-1",
            "--input",
            "x",
            "--output",
            "y",
            "--device",
            "cpu",
        ],
    )
    extractor = open_extractor(options)
    torch.manual_seed(0)
    backbone = PEBackbone(TINY, layers=[1, 2]).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        expected = backbone(image[None].float() / 127.5 - 1)
    maps = extractor(image).values()
    assert [tuple(layer.shape) for layer in maps] == [(32, 8, 12)] * 2
    for layer, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(layer, other[0], atol=1e-5, rtol=1e-4)


def test_images_share_their_colors_only_on_request(scenes):
    Image.open(scenes / "in/a.png").save(scenes / "in/same.png")
    run(scenes, "in/*.png")
    alone = picture(scenes, "a.png")
    run(scenes, "in/*.png", "--shared")
    assert torch.equal(picture(scenes, "a.png"), picture(scenes, "same.png"))
    assert not torch.equal(picture(scenes, "a.png"), alone)


def test_a_video_becomes_a_video(scenes):
    assert run(scenes, "moving.mp4", "--foreground") == 0
    drawn = cv2.VideoCapture(str(scenes / "out/moving.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    assert drawn.get(cv2.CAP_PROP_FRAME_WIDTH) == 2 * 480
    drawn.release()


def test_the_encoder_of_a_checkpoint_is_drawn(scenes):
    (scenes / "tracker.yaml").write_text(CONFIG)
    config = load_config(scenes / "tracker.yaml")
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    save_checkpoint(
        {"state_dict": model.state_dict(), "pe_spatial": describe(config.to_dict(), {})}, scenes / "tracker.pth"
    )
    assert run(scenes, "in/a.png", encoder=("--checkpoint", str(scenes / "tracker.pth"))) == 0
    drawn = picture(scenes, "a.png")
    write_tensor_file(model.backbone.encoder.state_dict(), scenes / "encoder.pt")
    assert run(scenes, "in/a.png", encoder=("--encoder", "tiny", "--weights", str(scenes / "encoder.pt"))) == 0
    assert torch.equal(picture(scenes, "a.png"), drawn)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--layers", "3"], "3"),
        (["--point", "96,0"], "outside an image of 96 x 64"),
    ],
)
def test_mistakes_are_named(scenes, capsys, more, message):
    assert run(scenes, "in/a.png", *more) == 2
    assert message in capsys.readouterr().err


def test_mistyped_layers_are_named(scenes, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(scenes, "in/a.png", "--layers", "last")
    assert "numbers with commas" in capsys.readouterr().err


def test_an_unknown_encoder_is_named_with_the_nearest(scenes, capsys):
    assert run(scenes, "in/a.png", encoder=("--encoder", "PE-Spatial-B16-51")) == 2
    assert "did you mean 'PE-Spatial-B16-512'?" in capsys.readouterr().err
    assert run(scenes, "in/a.png", encoder=("--checkpoint", str(scenes))) == 2
    assert "has no complete checkpoint" in capsys.readouterr().err


def test_files_that_cannot_be_read_are_listed_at_the_end(scenes, capsys):
    (scenes / "in/b.png").write_bytes(b"nothing")
    assert run(scenes, "in") == 1
    said = capsys.readouterr()
    assert "wrote 2 of 3 files" in said.out
    assert "b.png cannot be read" in said.err.replace("\n", "")
