"""The Predictor gives what evaluation gives, takes pictures in every form, and streams over files."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS
from PIL import Image
from toy_task import load

from pe_spatial.common.errors import CheckpointError, PictureError, UnreadableFile, UserError
from pe_spatial.common.pictures import read_image
from pe_spatial.common.sources import resolve_sources
from pe_spatial.inference import inputs
from pe_spatial.inference.predictor import Predictor, inference_pipeline
from pe_spatial.inference.stream import Source, count_pictures, stream
from pe_spatial.training.checkpoint import load_checkpoint
from pe_spatial.training.start import build_runner


def files_of(source):
    return [entry.path for entry in resolve_sources(source)]


@pytest.fixture(scope="module")
def predictor(finished):
    return Predictor(finished[1] / "iter_6.pth", device="cpu")


@pytest.fixture(scope="module")
def images(finished):
    return sorted((finished[0].parent / "images").glob("*.png"))


def boxes(sample):
    return torch.cat([sample.pred_instances.bboxes, sample.pred_instances.scores[:, None]], dim=1)


def test_prediction_equals_evaluation(finished, predictor, images, tmp_path):
    """Every prediction that Runner.test scores is the Predictor's, to the bit."""
    path, run = finished
    config = load(path, tmp_path / "run", f"load_from={run / 'iter_6.pth'}")
    test = {f"test_{part}": config[f"val_{part}"] for part in ("dataloader", "evaluator", "cfg")}
    runner = build_runner(config, test)
    scored = []
    metric = runner.test_loop.evaluator.metrics[0]
    original = metric.process
    metric.process = lambda data_batch, data_samples: (scored.extend(data_samples), original(data_batch, data_samples))
    runner.test()
    assert len(scored) == len(images) == 12
    for path, expected in zip(images, scored, strict=True):
        ours = predictor(path)
        assert ours.metainfo["img_path"] == expected["img_path"]
        for key, value in expected["pred_instances"].items():
            assert torch.equal(ours.pred_instances[key], value)


def forms_of(path):
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
    pixels = np.array(picture)
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "file object": BytesIO(path.read_bytes()),
        "PIL image": picture,
        "array": pixels,
        "array with alpha": np.dstack([pixels, np.full(pixels.shape[:2], 7, np.uint8)]),
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
    }


def test_every_form_of_a_picture_gives_the_same(predictor, images):
    expected = boxes(predictor(images[3]))
    forms = forms_of(images[3])
    for name, form in forms.items():
        assert torch.equal(boxes(predictor(form)), expected), name
    bgr = forms["array"][:, :, ::-1]
    assert torch.equal(boxes(predictor(bgr, channels="bgr")), expected)
    assert torch.equal(boxes(predictor(forms["tensor"].flip(0), channels="bgr")), expected)
    assert not torch.equal(boxes(predictor(bgr)), expected)
    assert torch.equal(boxes(predictor(images[3], channels="bgr")), expected)  # files know their order
    with open(images[3], "rb") as file:
        assert torch.equal(boxes(predictor(file)), expected)


def test_gray_pictures_have_three_equal_channels(predictor):
    gray = np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8)
    expected = boxes(predictor(np.stack([gray] * 3, -1)))
    for form in (gray, torch.from_numpy(gray)[None], Image.fromarray(gray)):
        assert torch.equal(boxes(predictor(form)), expected)


def test_many_pictures_give_a_list(predictor, images):
    expected = [boxes(predictor(path)) for path in images[:3]]
    pixels = [forms_of(path)["array"] for path in images[:3]]
    batch = np.stack(pixels)
    mixed = (images[0], pixels[1], torch.from_numpy(pixels[2]).permute(2, 0, 1))
    for many in (images[:3], tuple(images[:3]), (path for path in images[:3]), batch, mixed):
        assert all(map(torch.equal, map(boxes, predictor(many)), expected))
    tensors = torch.from_numpy(batch).permute(0, 3, 1, 2)
    assert all(map(torch.equal, map(boxes, predictor(tensors)), expected))
    assert len(predictor(batch[:1])) == 1


def test_a_generator_is_read_a_batch_at_a_time(finished, images):
    predictor = Predictor(finished[1], device="cpu", batch_size=2)
    read = []
    seen = []
    predict = predictor.predict
    predictor.predict = lambda samples: (seen.append((len(read), len(samples))), predict(samples))[1]
    assert len(predictor(read.append(path) or path for path in images[:5])) == 5
    assert seen == [(2, 2), (4, 2), (5, 1)]


def test_a_list_gives_a_list_in_order(finished, images):
    batched = Predictor(finished[1], device="cpu", batch_size=5)(images)
    single = [Predictor(finished[1], device="cpu")(path) for path in images]
    assert len(batched) == 12
    for a, b in zip(batched, single, strict=True):
        torch.testing.assert_close(boxes(a), boxes(b))
    assert Predictor(finished[1], device="cpu")([]) == []


def test_predictions_are_in_the_frame_of_the_picture(predictor):
    small, large = (predictor(np.full((h, 2 * h, 3), 7, np.uint8)) for h in (16, 64))
    torch.testing.assert_close(small.pred_instances.bboxes * 4, large.pred_instances.bboxes)


def test_it_knows_its_classes_and_its_config(predictor):
    assert predictor.classes == ("dark", "bright")
    assert predictor.config.model.type == "ToyModel"


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((8, 8, 3)),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        torch.zeros(3, 8, 8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 4, 8, 8, dtype=torch.uint8),
        5,
        None,
        {"a.jpg": 1},
        [[1, 2], [3, 4]],
    ],
    ids=["float array", "CHW", "empty", "float tensor", "HWC", "5-D", "number", "None", "mapping", "numbers"],
)
def test_what_is_no_picture_is_refused(predictor, picture):
    with pytest.raises(UserError, match="is not an image"):
        predictor(picture)


def test_the_refusal_names_type_shape_and_dtype(predictor):
    with pytest.raises(ValueError, match=r"ndarray float32 \[3, 9\] is not an image.*\[H, W, 3\].*\[3, H, W\]"):
        predictor(np.zeros((3, 9), np.float32))
    with pytest.raises(PictureError, match="'gbr'"):
        predictor(np.zeros((3, 9), np.uint8), channels="gbr")


def test_a_threshold_leaves_instances_out(predictor, images):
    score = float(predictor(images[0]).pred_instances.scores)
    assert len(predictor(images[0], threshold=score - 1e-3).pred_instances) == 1
    found = predictor(images[:2], threshold=1.0)
    assert [len(sample.pred_instances) for sample in found] == [0, 0]
    with pytest.raises(UserError, match="threshold 50"):
        predictor(images, threshold=50)


def test_a_sample_knows_its_image_and_its_classes(predictor, images):
    sample = predictor(images[0])
    assert torch.equal(sample.image, read_image(images[0]))
    assert sample.classes == ("dark", "bright")
    pixels = torch.zeros(3, 24, 32, dtype=torch.uint8)
    assert predictor(pixels).image.data_ptr() == pixels.data_ptr()  # not a copy


# --- addresses --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def server(images):
    content = images[3].read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            where = self.path.strip("/")
            if where == "missing":
                self.send_error(404)
                return
            self.send_response(302 if where in ("moved", "file") else 200)
            targets = {"moved": "/picture.png", "file": images[3].as_uri()}
            if where in targets:
                self.send_header("Location", targets[where])
            if where == "short":
                self.send_header("Content-Length", str(len(content) + 9))
            self.end_headers()
            for part in range(1000) if where == "slow" else ():
                try:
                    self.wfile.write(content[part : part + 1])
                    time.sleep(0.02)
                except OSError:
                    return
            if where not in targets:
                self.wfile.write(b"no image" if where == "text" else content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def online(finished):
    return Predictor(finished[1] / "iter_6.pth", device="cpu", allow_urls=True)


def test_addresses_are_fetched_where_they_are_allowed(predictor, online, server, images):
    expected = boxes(predictor(images[3]))
    for name in ("picture.png", "moved"):
        sample = online(f"{server}/{name}")
        assert torch.equal(boxes(sample), expected)
        assert str(sample).startswith(name)
    with pytest.raises(UserError, match=r"picture\.png.*allow_urls=True"):
        predictor(f"{server}/picture.png")


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "404"), ("text", "cannot be read"), ("short", "9 bytes early"), ("file", "redirect|not allowed")],
)
def test_addresses_without_a_picture_are_named(online, server, name, message):
    with pytest.raises(UnreadableFile, match=f"{server}/{name}.*({message})"):
        online(f"{server}/{name}")


def test_downloads_have_a_largest_size_and_a_longest_time(online, server, monkeypatch):
    monkeypatch.setattr(inputs, "LARGEST_DOWNLOAD", 40)
    with pytest.raises(UnreadableFile, match="more than"):
        online(f"{server}/picture.png")
    monkeypatch.undo()
    monkeypatch.setattr(inputs, "DOWNLOAD_SECONDS", 0.3)
    with pytest.raises(UnreadableFile, match=r"not complete after 0\.3 s"):
        online(f"{server}/slow")
    with pytest.raises(UnreadableFile, match="cannot be downloaded"):
        online("http://127.0.0.1:1/picture.png")


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_unreadable_paths_are_named(predictor, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    for path in (tmp_path / "bad.png", tmp_path / "missing.png"):
        with pytest.raises(UnreadableFile, match=path.name):
            predictor(path)


def test_checkpoints_that_cannot_predict_are_refused(finished, tmp_path):
    with pytest.raises(CheckpointError, match="folder has no complete checkpoint"):
        Predictor(tmp_path)
    content = load_checkpoint(finished[1] / "iter_6.pth")
    torch.save(content["state_dict"], tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="no config"):
        Predictor(tmp_path / "weights.pth")
    content["state_dict"].pop("head.weight")
    del content["pe_spatial"]["content_hash"]
    torch.save(content, tmp_path / "partial.pth")
    with pytest.raises(CheckpointError, match=r"missing \(head.weight\)"):
        Predictor(tmp_path / "partial.pth")
    with pytest.raises(UserError, match="device"):
        Predictor(finished[1], device="cuda:7") if not torch.cuda.is_available() else Predictor(finished[1], "quantum")
    with pytest.raises(ValueError, match="batch_size 0"):
        Predictor(finished[1], batch_size=0)


@TRANSFORMS.register_module()
class NeedsBoxes:
    """A step of a user's own, in the middle of a pipeline."""

    needs_labels = True

    def __call__(self, sample):
        return {**sample, "boxes": sample["boxes"] + 1}


@TRANSFORMS.register_module()
class LoadNothingAtAll:
    """Its name begins like that of a loader of labels, and says nothing."""

    def __call__(self, sample):
        return sample


def test_steps_that_need_labels_are_left_out_by_their_class():
    kept = ["LoadImage", "torchvision.transforms.v2.Resize", "LoadNothingAtAll", "PackSample"]
    steps = [*kept[:2], "LoadInstances", kept[2], "NeedsBoxes", "SanitizeInstances", kept[3]]
    config = {"val_dataloader": {"dataset": {"pipeline": [{"type": name} for name in steps]}}}
    assert [step["type"] for step in inference_pipeline(config)] == kept
    with pytest.raises(UserError, match="pipeline"):
        inference_pipeline({"val_dataloader": None})


# --- streams ----------------------------------------------------------------------------------------------------------
def write_video(path, frames=5):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 24))
    for value in range(frames):
        writer.write(np.full((24, 32, 3), (0, 0, 50 * value), np.uint8))  # OpenCV's BGR: ever redder
    writer.release()


@pytest.fixture
def folder(images, tmp_path):
    root = tmp_path / "input"
    (root / "deep").mkdir(parents=True)
    for number, path in enumerate(images[:3]):
        (root / ("deep" if number == 2 else "") / path.name).write_bytes(path.read_bytes())
    (root / "broken.png").write_text("no image")
    (root / "broken.mp4").write_text("no video")
    (root / "notes.dat").write_text("not for us")
    write_video(root / "film.avi")
    return root


def test_sources_of_files_folders_and_patterns(folder):
    assert [path.name for path in files_of(folder)] == [
        "00.png",
        "01.png",
        "broken.mp4",
        "broken.png",
        "02.png",
        "film.avi",
    ]
    assert [path.name for path in files_of(f"{folder}/**/0*.png")] == ["00.png", "01.png", "02.png"]
    (folder / "notes.dat").write_text("not for us")
    assert files_of(folder / "notes.dat") == [folder / "notes.dat"]  # named by the user: tried, and reported
    for missing in (folder / "missing.png", f"{folder}/*.gif"):
        with pytest.raises(UserError, match="no image or video"):
            files_of(missing)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_stream_keeps_order_and_yields_errors(finished, folder, batch_size):
    predictor = Predictor(finished[1], device="cpu", batch_size=batch_size)
    results = list(stream(predictor, files_of(folder)))
    names = [result.source.name for result in results]
    assert names == ["00", "01", "broken", "broken", "02", *(f"film_{i:06d}" for i in range(5))]
    for result in results:
        path = result.source.path
        if path.stem == "broken":
            assert isinstance(result.error, UnreadableFile)
            assert path.name in str(result.error)
            assert result.sample is None
        elif result.source.frame is None:
            torch.testing.assert_close(boxes(result.sample), boxes(predictor(path)))
            assert torch.equal(result.image, read_image(path))
    last = results[-1]
    assert last.source == Source(folder / "film.avi", 4, 5.0)
    redness = last.image.float().mean((1, 2))  # RGB; the codec loses some
    torch.testing.assert_close(redness, torch.tensor([200.0, 0.0, 0.0]), rtol=0, atol=6)
    assert torch.equal(boxes(last.sample), boxes(predictor(last.image)))


def test_pictures_are_counted_before_they_are_read(folder):
    assert count_pictures([folder / "00.png", folder / "film.avi"]) == 6
    assert count_pictures([folder / "00.png", folder / "broken.mp4"]) is None


def test_a_stream_that_is_left_early_ends_its_threads(predictor, images):
    before = set(threading.enumerate())
    results = stream(predictor, images * 50)
    next(results)
    results.close()
    assert set(threading.enumerate()) <= before


def test_files_are_read_while_the_model_works(predictor, images, monkeypatch):
    """The model does not answer about the first pictures before the next one has been read."""
    load, predict = predictor.load, predictor.predict
    first = predictor.batch_size
    read, next_is_read = [], threading.Event()

    def counted_load(picture):
        read.append(picture)
        if len(read) > first:
            next_is_read.set()
        return load(picture)

    def waiting_predict(samples):
        assert next_is_read.wait(60)
        return predict(samples)

    monkeypatch.setattr(predictor, "load", counted_load)
    monkeypatch.setattr(predictor, "predict", waiting_predict)
    assert len(list(stream(predictor, images * 2, threads=2))) == 24


def test_a_bug_is_raised_not_reported(predictor, images, monkeypatch):
    def fail(picture):
        raise AttributeError("a bug")

    monkeypatch.setattr(predictor, "load", fail)
    with pytest.raises(AttributeError, match="a bug"):
        list(stream(predictor, images))
