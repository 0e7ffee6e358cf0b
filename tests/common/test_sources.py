"""Which files are meant: every way of saying it, what is left out, and what is said if nothing is there."""

import os
import re
import tarfile
from pathlib import Path

import pytest

from pe_spatial.common.archives import INDEX_SUFFIX
from pe_spatial.common.errors import UnreadableFile, UserError
from pe_spatial.common.pictures import read_image
from pe_spatial.common.sources import NoSources, natural_order, resolve_sources, source_root
from pe_spatial.common.suffixes import HEIF_SUFFIXES, IMAGE_SUFFIXES

FILES = ("2.jpg", "10.JPG", "clip.mov", "deep/1.png", "deep/x[1].png", "deep/er/z.webp")
LEFT_OUT = ("notes.md", "deep/table.csv", ".hidden.jpg", "._2.jpg", ".cache/3.jpg", "__MACOSX/4.jpg")


@pytest.fixture
def folder(tmp_path):
    for name in (*FILES, *LEFT_OUT):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    return tmp_path / "in"


def names(*arguments, **options):
    return [entry.name for entry in resolve_sources(*arguments, **options)]


def test_a_folder_in_natural_order(folder, monkeypatch):
    found = resolve_sources(folder)
    assert [entry.name for entry in found] == ["2.jpg", "10.JPG", "clip.mov", "deep/1.png", "deep/er/z.webp"] + [
        "deep/x[1].png"
    ]
    assert [entry.kind for entry in found] == ["image", "image", "video", "image", "image", "image"]
    assert [entry.path for entry in found] == [folder / entry.name for entry in found]
    assert found.root == folder and len(found[1:]) == len(found) - 1
    assert names(folder, ["image"], recursive=False) == ["2.jpg", "10.JPG"]
    assert names(folder, ["video"]) == ["clip.mov"]
    monkeypatch.chdir(folder)
    assert [str(entry.path) for entry in resolve_sources(".", ["video"])] == ["clip.mov"]


def test_what_is_left_out_is_counted(folder):
    warning = resolve_sources(folder).warning
    assert warning == f"files in {folder} left out because of their names: 2 (1 .csv, 1 .md)"
    assert "1 .mov" in resolve_sources(folder, ["image"]).warning
    assert resolve_sources(folder / "deep/er").warning == ""


def test_patterns(folder):
    assert names(f"{folder}/*.[jJ][pP][gG]") == ["2.jpg", "10.JPG"]
    assert names(f"{folder}/**/*.png") == ["deep/1.png", "deep/x[1].png"]
    assert names(f"{folder}/**") == names(folder)
    assert names(f"{folder}/*/*.png") == ["deep/1.png", "deep/x[1].png"]
    assert names(f"{folder}/d*/**/z.*") == ["deep/er/z.webp"]
    assert names(f"{folder}/**/er/**/*.webp") == ["deep/er/z.webp"]


def test_names_with_brackets_are_names_where_they_exist(folder):
    assert names(folder / "deep/x[1].png") == ["x[1].png"]
    (folder / "deep").rename(folder / "de[e]p")
    assert names(f"{folder}/de[e]p/*.png") == ["1.png", "x[1].png"]
    assert names(f"{folder}/de[e]p") == ["1.png", "er/z.webp", "x[1].png"]
    assert names(f"{folder}/de[e]p/**/*.webp") == ["er/z.webp"]


def test_a_list_keeps_its_order_and_names_what_is_gone(folder):
    listing = folder / "deep/list.txt"
    listing.write_bytes(f"\ufeff# a comment\r\n../2.jpg\r\n\r\n1.png\n{folder}/clip.mov\n gone.jpg \ner\n".encode())
    found = resolve_sources(listing)
    assert [entry.name for entry in found] == ["../2.jpg", "1.png", "../clip.mov", "gone.jpg", "er/z.webp"]
    assert [entry.kind for entry in found] == ["image", "image", "video", "image", "image"]
    assert found.root == folder / "deep"
    listing.write_text("# nothing\n")
    with pytest.raises(NoSources, match="one path per line"):
        resolve_sources(listing)
    listing.write_text("list.txt\n")
    with pytest.raises(UserError, match="list inside a list"):
        resolve_sources(listing)
    listing.write_text("../__MACOSX\n")
    assert names(listing) == ["../__MACOSX/4.jpg"]  # said so


def test_several_sources_keep_their_order(folder):
    found = resolve_sources([folder / "deep", f"{folder}/*.jpg", folder / "gone.png"])
    assert [entry.name for entry in found] == ["deep/1.png", "deep/er/z.webp", "deep/x[1].png", "2.jpg", "gone.png"]
    assert len(resolve_sources([])) == 0
    (folder / "empty").mkdir()
    with pytest.raises(NoSources, match="contains no image or video"):
        resolve_sources([folder / "deep", folder / "empty"])


def test_links_in_a_circle_end_and_folders_are_entered_once(folder):
    (folder / "deep/up").symlink_to(folder)
    (folder / "again").symlink_to(folder / "deep/er")
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "5.png").touch()
    for number in range(8):  # every folder links to every other one
        (elsewhere / str(number)).mkdir()
        for other in range(8):
            (elsewhere / str(number) / str(other)).symlink_to(elsewhere / str(other))
    before = names(folder)
    (folder / "link").symlink_to(elsewhere)
    assert names(folder) == natural_order([*before, "link/5.png"])
    assert names(f"{folder}/**/5.png") == ["link/5.png"]
    (folder / "broken.png").symlink_to(folder / "nothing")
    assert "broken.png" in names(folder)  # and is an error where it is read


def test_nothing_there_says_what_was_looked_for(folder):
    with pytest.raises(FileNotFoundError, match=r"deep/er contains no video; looked for .*\.mp4.*names: 1 \(1 \.webp"):
        resolve_sources(folder / "deep/er", ["video"])
    with pytest.raises(NoSources, match=rf"did you mean '{re.escape(str(folder))}/clip\.mov'"):
        resolve_sources(folder / "clip.mvo")
    with pytest.raises(UserError, match=rf"did you mean '{re.escape(str(folder))}/deep'"):
        resolve_sources(folder / "depp/er/z.webp")
    with pytest.raises(NoSources, match=r"pattern .* matches no image or video"):
        resolve_sources(f"{folder}/*.bmp")
    with pytest.raises(NoSources, match="no image or video there"):
        resolve_sources("/nowhere/at/all")
    with pytest.raises(UserError, match=r"clip\.mov has the suffix of a video, but must be of kind image"):
        resolve_sources(folder / "clip.mov", ["image"])


def test_a_folder_that_may_not_be_read_is_named_where_it_is_read(folder, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("er"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    *_, locked = resolve_sources(folder)
    with pytest.raises(UnreadableFile, match="deep/er cannot be read: it is a folder"):
        read_image(locked.path)


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name in members:
            tar.addfile(tarfile.TarInfo(name))
    return path


def test_images_in_tars_where_no_loose_file_is(folder):
    shards = folder.parent / "shards"
    shards.mkdir()
    for number in (10, 9):
        write_tar(shards / f"{number}.tar", ["a/1.png", "a/1.mask.png", "a/1.txt", "__MACOSX/1.png", "._2.png"])
    expected = ["9.tar/a/1.png", "10.tar/a/1.png"]
    assert names(shards) == names(f"{shards}/*.tar") == names([shards / "9.tar", shards / "10.tar"]) == expected
    assert names(shards) == expected  # the indices that were written do not count
    assert resolve_sources(shards).warning == ""
    entry = resolve_sources(shards / "9.tar")[0]
    assert (entry.kind, entry.path) == ("image", shards / "9.tar/a/1.png")
    assert entry.archive[0] == str(shards / "9.tar") and (shards / f"9.tar{INDEX_SUFFIX}").is_file()
    assert names(shards, ["tar"]) == expected
    write_tar(folder / "copy.tar", ["2.jpg"])
    assert "copy.tar/2.jpg" not in names(folder)
    assert "1 .tar" in resolve_sources(folder).warning


def test_a_named_file_is_what_its_content_is(tmp_path):
    from test_video import encode

    encode(tmp_path / "film.mkv", "mjpeg", 3)
    (tmp_path / "film.mkv").rename(tmp_path / "film")
    (tmp_path / "other.dat").write_text("neither")
    assert [resolve_sources(tmp_path / name)[0].kind for name in ("film", "other.dat")] == ["video", "image"]
    assert resolve_sources(tmp_path / "film", ["image"])[0].kind == "image"


def test_a_gif_that_moves_is_a_video_where_videos_are_wanted(tmp_path):
    from PIL import Image

    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "green")]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:], duration=100)
    frames[0].save(tmp_path / "still.gif")
    found = {entry.name: entry.kind for entry in resolve_sources(tmp_path)}
    assert found == {"moves.gif": "video", "still.gif": "image"}
    assert {entry.kind for entry in resolve_sources(tmp_path, ["image"])} == {"image"}


def test_order_is_natural_and_settled():
    assert natural_order(["b/10.jpg", "b/9.jpg", "a/100.jpg"]) == ["a/100.jpg", "b/9.jpg", "b/10.jpg"]
    assert natural_order(["1.jpg", "01.jpg"]) == natural_order(["01.jpg", "1.jpg"])
    assert natural_order([Path("x²"), "x1"]) == ["x1", "x²"]


def test_the_root_of_a_source(folder):
    assert source_root(folder) == folder == source_root(folder / "2.jpg") == source_root(f"{folder}/*/**/*.png")
    assert source_root(folder / "gone.jpg") == folder


def test_pillow_reads_every_image_suffix():
    from PIL import Image

    Image.init()
    assert {suffix for suffix in IMAGE_SUFFIXES if suffix not in Image.EXTENSION} <= {".avif", *HEIF_SUFFIXES}
