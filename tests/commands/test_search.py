"""`pe-spatial index` and `pe-spatial search`: the whole path, kills, changes, videos, recall, and mistakes."""

import csv
import json
import shutil
import signal

import numpy as np
import pytest
import torch
from kills import leftovers, results, start_process, status_of
from PIL import Image
from search_scenes import index, is_killed, killed_at, save_encoder, save_film, save_picture, search

from pe_spatial import Index
from pe_spatial.backbones.text import open_core
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import OptionError, UnreadableFile
from pe_spatial.common.pictures import read_image
from pe_spatial.zero_shot.embedding import read_clip

pytest.importorskip("ftfy")
LISTS = ("index.json", "embeddings.npy", "rows.jsonl")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Nine pictures and a video; pictures 2 and 7 are the same."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for number in range(9):
        save_picture(folder / f"{'ab'[number % 2]}/{number}.png", 2 if number == 7 else number)
    save_film(folder / "film.mp4")
    return folder


@pytest.fixture(scope="module")
def made(encoder, photos, tmp_path_factory):
    """An index of all of them."""
    folder = tmp_path_factory.mktemp("index") / "ix"
    assert index(encoder, photos, folder, "--batch-size", 2) == 0
    return folder


@pytest.fixture
def copied(made, tmp_path):
    """That index, to be broken."""
    return shutil.copytree(made, tmp_path / "copied")


def names(folder):
    return [str(row) for row in Index(folder).rows()]


# --- the whole path ---------------------------------------------------------------------------------------------------
def test_rows_are_the_normalized_features_of_files(made, encoder, photos):
    model, found = open_core(encoder, device="cpu"), Index(made)
    films = [f"film.mp4 at {time}.00 s" for time in range(3)]
    assert names(made) == [f"a/{n}.png" for n in range(0, 9, 2)] + [f"b/{n}.png" for n in range(1, 9, 2)] + films
    assert np.load(made / "embeddings.npy").shape == (12, 12) == found.embeddings.shape
    with torch.no_grad():
        for row in (0, 6):
            picture = model.preprocess(read_image(photos / found.row(row).name))
            expected = model.encode_image(picture[None], normalize=True)[0]
            np.testing.assert_allclose(found.embeddings[row], expected, atol=1e-6)
    content = json.loads((made / "index.json").read_text())
    assert content["embeddings"] == {"file": "embeddings.npy", "dtype": "float32", "shape": [12, 12]}
    assert content["encoder"]["name"] == "tiny" and len(content["encoder"]["weights"]) == 16


def test_texts_and_pictures_find_rows(made, encoder, photos, tmp_path, capsys):
    assert search(made, "a red bicycle", "--top-k", 4, "--output", tmp_path / "out") == 0
    said = capsys.readouterr().out
    model, found = open_core(encoder, device="cpu"), Index(made, device="cpu")
    with torch.no_grad():
        scores = found.embeddings @ model.encode_text("a red bicycle", normalize=True)[0].numpy()
    hits = json.loads((tmp_path / "out/hits.json").read_text())["hits"]
    assert [hit["row"] for hit in hits] == np.argsort(-scores, kind="stable")[:4].tolist()
    assert [hit["score"] for hit in hits] == pytest.approx(np.sort(scores)[::-1][:4].tolist(), abs=1e-5)
    assert f"   1  {hits[0]['score']:.4f}  {hits[0]['name']}" in said
    with open(tmp_path / "out/hits.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["rank", "score", "file_name", "time"] and [row[2] for row in rows[1:]] == [
        h["name"] for h in hits
    ]
    assert Image.open(tmp_path / "out/hits.png").size[0] > 4 * 480

    pictures = found.search(photos / "b/7.png", top_k=3)
    assert {hit.name for hit in pictures[:2]} == {"a/2.png", "b/7.png"}  # equal pictures
    assert pictures[0].score == pytest.approx(1, abs=1e-5)
    assert found.search(Image.open(photos / "b/7.png"), 3) == pictures
    assert found.search(str(photos / "b/7.png"), 3) == pictures
    assert "film.mp4" in [hit.name for hit in found.search(photos / "film.mp4", 3)]
    assert search(made, photos / "b/7.png", "--top-k", 1) == 0
    assert "   1  1.0000  " in capsys.readouterr().out


def test_tars_are_indexed_and_shown(encoder, photos, tmp_path, capsys):
    import tarfile

    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/x.tar", "w") as tar:
        tar.add(photos / "a", arcname="a")
    options = ("--dtype", "fp16", "--batch-size", 2, "--weights", encoder / "pe_core.safetensors")
    assert index(encoder, tmp_path / "shards", tmp_path / "ix", *options) == 0
    assert names(tmp_path / "ix") == [f"x.tar/a/{n}.png" for n in range(0, 9, 2)]
    assert Index(tmp_path / "ix").embeddings.dtype == np.float16
    assert search(tmp_path / "ix", "a cat", "--output", tmp_path / "out") == 0
    assert "cannot be shown" not in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["classification", "retrieval"])
def test_a_video_is_one_row_by_either_official_definition(encoder, photos, tmp_path, rule):
    assert index(encoder, photos / "film.mp4", tmp_path / "ix", "--video-rows", rule, "--frames", 4) == 0
    model, clip = open_core(encoder, device="cpu"), read_clip(photos / "film.mp4", 4)
    with torch.no_grad():
        expected = model.encode_video(torch.stack([model.preprocess(frame) for frame in clip])[None], rule)[0]
    (found,) = Index(tmp_path / "ix").embeddings
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (np.linalg.norm(found) < 0.999) == (rule == "retrieval")
    assert search(tmp_path / "ix", "a film", "--output", tmp_path / "out") == 0


@pytest.mark.parametrize(("every", "times"), [(0, [n / 10 for n in range(25)]), (0.8, [0, 0.8, 1.6, 2.4])])
def test_frames_keep_their_distance(encoder, photos, tmp_path, every, times):
    assert index(encoder, photos / "film.mp4", tmp_path / "ix", "--every", every) == 0
    assert [row.time for row in Index(tmp_path / "ix").rows()] == pytest.approx(times)


# --- going on ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_to_equal_files(made, encoder, photos, tmp_path, number, capsys):
    output = tmp_path / "ix"
    arguments = (encoder, photos, output, "--batch-size", 2)
    assert is_killed(status_of(start_process(killed_at, 5, number, *arguments)))
    capsys.readouterr()
    assert index(*arguments) == 0
    assert "files were done by an earlier run" in capsys.readouterr().out
    assert results(output) == results(made) and not leftovers(output)


def test_shards_give_what_one_run_gives(made, encoder, photos, tmp_path):
    for part in (2, 1):
        assert index(encoder, photos, tmp_path / "ix", "--batch-size", 2, "--shard", f"{part}/2") == 0
    assert results(tmp_path / "ix") == results(made)


def test_new_changed_and_vanished_pictures(made, encoder, photos, copied, tmp_path, capsys):
    """The index of a folder that has changed is that of a new run."""
    folder = shutil.copytree(photos, tmp_path / "photos")
    output, arguments = tmp_path / "ix", ("--batch-size", 1)
    assert index(encoder, folder, output, *arguments) == 0
    assert "since the last run" not in capsys.readouterr().out
    save_picture(folder / "a/new.png", 20)
    save_picture(folder / "b/3.png", 21)
    (folder / "a/4.png").unlink()
    assert index(encoder, folder, output, *arguments) == 0
    said = capsys.readouterr().out
    assert "since the last run: 1 new; 1 changed (b/3.png); 1 vanished, and taken out (a/4.png)" in said
    assert "a/new.png" in names(output) and "a/4.png" not in names(output)
    assert index(encoder, folder, tmp_path / "again", *arguments) == 0
    assert all((output / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in LISTS)


def test_a_picture_that_cannot_be_read_is_counted(encoder, photos, tmp_path, capsys):
    folder = shutil.copytree(photos / "a", tmp_path / "photos")
    (folder / "bad.png").write_bytes(b"no picture")
    assert index(encoder, folder, tmp_path / "ix") == 1
    assert "bad.png" in capsys.readouterr().err and len(Index(tmp_path / "ix")) == 5
    save_picture(folder / "bad.png", 5)
    assert index(encoder, folder, tmp_path / "ix") == 0
    assert "bad.png" in names(tmp_path / "ix")


# --- recall -----------------------------------------------------------------------------------------------------------
def test_captions_are_scored(encoder, photos, tmp_path, capsys):
    assert index(encoder, photos / "a", tmp_path / "ix") == 0
    captions = {"0.png": ["a cat", "a dog"], "deep/2.png": ["a cow"], "4.png": ["a cat"], "absent.png": ["x", "y"]}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    assert search(tmp_path / "ix", "--evaluate", tmp_path / "captions.json", "--output", tmp_path / "out") == 0
    result = json.loads((tmp_path / "out/recall.json").read_text())
    told = capsys.readouterr()
    assert result["captions"] == 3 and result["captions_without_picture"] == 3
    assert result["pictures"] == 2 and result["pictures_without_caption"] == 3
    assert "3 captions left out" in told.err and "deep/2.png" in told.err
    assert f"text to image  R@1 {result['text_to_image']['R@1']:.1%} (chance" in told.out
    assert result["text_to_image"]["R@5"] == 1  # of five rows


@pytest.mark.parametrize("wanted", ["0.png", "a/0.png"])
def test_captions_name_whole_paths_or_their_ends(made, photos, encoder, tmp_path, wanted):
    assert index(encoder, photos, tmp_path / "ix", "--video-rows", "retrieval") == 0
    (tmp_path / "captions.csv").write_text(f"image,caption\n{wanted},a cat\n")
    assert search(tmp_path / "ix", "--evaluate", tmp_path / "captions.csv") == 0


def test_captions_of_frames_are_refused(made, tmp_path, capsys):
    (tmp_path / "captions.csv").write_text("a/0.png,a cat\n")
    assert search(made, "--evaluate", tmp_path / "captions.csv") == 2
    assert "--video-rows classification or retrieval" in capsys.readouterr().err


def test_captions_of_other_pictures_are_refused(encoder, photos, tmp_path, capsys):
    assert index(encoder, photos / "a", tmp_path / "ix") == 0
    (tmp_path / "captions.csv").write_text("other.jpg,a cat\n")
    assert search(tmp_path / "ix", "--evaluate", tmp_path / "captions.csv") == 2
    assert "none of the 1 captions is of a file in" in capsys.readouterr().err


# --- mistakes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "weights '"),
        ({"image_size": 24}, "image_size 16 instead of 24"),
    ],
)
def test_another_encoder_is_refused(made, tmp_path, capsys, fields, message):
    other = save_encoder(tmp_path / "other", seed=4, **fields)
    assert search(made, "a cat", "--encoder", other) == 2
    said = capsys.readouterr().err
    assert "was made by another encoder" in said and message in said


def test_an_encoder_that_was_moved(copied, encoder, tmp_path, capsys):
    content = json.loads((copied / "index.json").read_text())
    content["open"]["encoder"] = str(tmp_path / "gone")
    (copied / "index.json").write_text(json.dumps(content))
    assert search(copied, "a cat") == 2
    assert "give its new path with --encoder" in capsys.readouterr().err
    assert search(copied, "a cat", "--encoder", encoder) == 0


def test_an_index_goes_on_with_its_own_encoder_and_rule_only(photos, encoder, copied, tmp_path, capsys):
    assert index(save_encoder(tmp_path / "other", seed=4), photos, copied) == 2
    assert "encoder.weights '" in capsys.readouterr().err
    assert index(encoder, photos, copied, "--every", 3) == 2
    assert "videos.every 1.0 instead of 3.0" in capsys.readouterr().err
    assert index(encoder, photos / "a", copied) == 2
    assert "input '" in capsys.readouterr().err


def cut(folder):
    content = (folder / "embeddings.npy").read_bytes()
    (folder / "embeddings.npy").write_bytes(content[:-7])


def swap(folder):
    np.save(folder / "embeddings.npy", np.zeros((3, 12), np.float32))


def change(folder, **fields):
    content = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(content | fields))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut, "embeddings.npy is cut: it has"),
        (swap, "is not the array 12 x 12 of its index.json; give the same pe-spatial index command again"),
        (lambda folder: (folder / "index.json").unlink(), "is not a complete index: it has no index.json"),
        (lambda folder: (folder / "index.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "rows.jsonl").write_text("{}\n"), "1 lines for 12 rows"),
        (lambda folder: (folder / "rows.jsonl").write_text("{}\n" * 12), "'{}\\n' does not name a file"),
        (lambda folder: (folder / "embeddings.npy").unlink(), "No such file"),
        (lambda folder: change(folder, format_version=2), "has format_version 2, and this version reads 1"),
        (lambda folder: change(folder, embeddings={"file": 3}), "do not describe an array"),
        (lambda folder: change(folder, encoder={"channels": 13}), "12 channels are not those of its encoder"),
        (lambda folder: change(folder, encoder=None), "its field 'encoder' is 'None'"),
    ],
)
def test_a_damaged_index_is_named(copied, capsys, harm, message):
    harm(copied)
    assert search(copied, "a cat") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a cat", "--top-k", "0"), "0 is too small; give 1 or more"),
        ((), "give a query"),
        (("a cat", "--evaluate", "x.json"), "give a query"),
    ],
)
def test_mistyped_questions(made, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        search(made, *arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("absent.png", "absent.png"),
        ("absent.mp4", "absent.mp4"),
        (" ", "1 of 1 texts are empty"),
        ("", "1 of 1 texts are empty"),
    ],
)
def test_queries_that_are_none(made, capsys, query, message):
    assert search(made, query) == 2
    assert message in capsys.readouterr().err


def test_more_hits_than_rows_and_a_long_text(made, capsys):
    with pytest.warns(UserWarning, match="1 of 1 texts longer than 14 word pieces"):
        assert len(Index(made, device="cpu").search("red " * 40, top_k=100)) == 12
    assert search(made, "a cat", "--top-k", 100) == 0
    assert "has 12 rows, and all of them are shown" in capsys.readouterr().err
    with pytest.raises(OptionError, match="top_k 0 must be at least 1"):
        Index(made).search("a cat", top_k=0)


def test_pictures_that_are_gone_are_counted(copied, tmp_path, capsys):
    assert search(copied, "a cat", "--output", tmp_path / "out", "--root", tmp_path / "elsewhere") == 0
    assert "10 of the hits cannot be shown" in capsys.readouterr().err


def test_folders_without_pictures(encoder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert index(encoder, tmp_path / "empty", tmp_path / "ix") == 2
    assert "contains no image or video" in capsys.readouterr().err
    (tmp_path / "empty/bad.png").write_bytes(b"no picture")
    assert index(encoder, tmp_path / "empty", tmp_path / "ix") == 1
    with pytest.raises(UnreadableFile, match="has no rows, because none of its files could be read"):
        Index(tmp_path / "ix")


def test_encoders_without_words_are_refused(photos, tmp_path, capsys):
    arguments = [str(photos), "--encoder", "PE-Spatial-T16-512", "--weights", "none", "--output", str(tmp_path / "ix")]
    assert run_command("index", arguments) == 2
    assert "PE-Spatial-T16-512 has no text tower" in capsys.readouterr().err
