"""Files that no program should take at their word; none of them is large, nor is anything large made to write them."""

import os
import socket
import struct
import zlib
from io import BytesIO

import av
import numpy as np
from PIL import Image

HUGE = 30_000  # a side; 900 megapixels


def good_picture(path, size=(24, 32)):
    """A sound picture of (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def encoded(kind, mode="RGB", size=(16, 16)):
    buffer = BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


# --- pictures that say they are huge ----------------------------------------------------------------------------------
def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(path, width=HUGE, height=HUGE, content=b"", bits=8, colors=2):
    """A PNG of that size, with these bytes as its compressed pixels."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colors, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", content) + _chunk(b"IEND", b""))


def png_bomb(path):
    """A whole PNG of 900 megapixels, all black, in about 109 kB."""
    packer = zlib.compressobj(9)
    rows = bytes(200 * (HUGE // 8 + 1))
    content = b"".join(packer.compress(rows) for _ in range(HUGE // 200)) + packer.flush()
    png_header(path, content=content, bits=1, colors=0)


def jpeg_bomb(path):
    data = bytearray(encoded("JPEG"))
    place = data.index(b"\xff\xc0") + 5  # after marker, length and bits
    data[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    path.write_bytes(data)


def gif_bomb(path):
    data = bytearray(encoded("GIF", "P"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    place = data.index(b"\x2c\0\0\0\0") + 5
    data[place : place + 4] = struct.pack("<HH", 65_535, 65_535)
    path.write_bytes(data)


def bmp_bomb(path):
    data = bytearray(encoded("BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    path.write_bytes(data)


def tga_bomb(path):
    data = bytearray(encoded("TGA"))
    data[12:16] = struct.pack("<HH", 65_535, 65_535)
    path.write_bytes(data)


def ppm_bomb(path):
    path.write_bytes(b"P6 100000 100000 255\n" + bytes(30))


def tiff_bomb(path, pages=1):
    """A TIFF whose first page says 60000 x 60000."""
    data = bytearray(encoded("TIFF"))
    (place,) = struct.unpack_from("<I", data, 4)
    for number in range(*struct.unpack_from("<H", data, place)):
        entry = place + 2 + 12 * number
        if struct.unpack_from("<H", data, entry)[0] in (256, 257, 278):
            struct.pack_into("<HII", data, entry + 2, 4, 1, 60_000)
    path.write_bytes(data)


def webp_bomb(path):
    """The largest that the format knows: 16383 x 16383, without loss."""
    bits = 0x2F | (16_382 << 8) | (16_382 << 22)
    body = bits.to_bytes(5, "little") + bytes(40)
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)


def jp2_bomb(path):
    data = bytearray(encoded("JPEG2000"))
    place = data.index(b"ihdr") + 4
    data[place : place + 8] = struct.pack(">II", 60_000, 60_000)
    place = data.index(b"\xff\x51") + 6
    data[place : place + 8] = struct.pack(">II", 60_000, 60_000)
    path.write_bytes(data)


def avif_bomb(path):
    data = bytearray(encoded("AVIF", size=(64, 64)))
    place = data.index(b"ispe") + 8
    data[place : place + 8] = struct.pack(">II", 60_000, 60_000)
    path.write_bytes(data)


def sparse(path, size=2**41, start=b""):
    """A file of two terabytes that take no place."""
    path.write_bytes(start)
    os.truncate(path, size)


def sparse_webp(path):
    sparse(path, start=b"RIFF" + struct.pack("<I", 2**32 - 20) + b"WEBPVP8 " + struct.pack("<I", 2**32 - 40))


# --- files that are none ----------------------------------------------------------------------------------------------
def bound_socket(path):
    """A socket in the file system; its name may be longer than the system takes for one."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def linked(target):
    return lambda path: os.symlink(target, path)


# --- videos -----------------------------------------------------------------------------------------------------------
def video(path, count=6, size=(48, 64), codec="libx264", form=None):
    """A sound video of 10 frames per second."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25 if codec == "mpeg2video" else 10)
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _patched(make, *changes):
    """A file in which bytes at some distance from a mark are others."""

    def patch(path):
        make(path)
        data = bytearray(path.read_bytes())
        for mark, distance, content in changes:
            place = data.index(mark) + distance
            data[place : place + len(content)] = content
        path.write_bytes(data)

    return patch


def avi_of_frames(count):
    """Six frames in a file that announces another number."""
    number = struct.pack("<I", count)
    return _patched(lambda path: video(path, codec="mpeg4"), (b"avih", 24, number), (b"strh", 40, number))


def avi_of_size(width, height):
    """A file that announces frames of another size, for its frames too."""
    size = struct.pack("<ii", width, height)
    inside = struct.pack(">HH", min(height, 65_535), min(width, 65_535))
    first = _patched(lambda path: video(path, codec="mjpeg"), (b"strf", 12, size), (b"avih", 40, size))
    return _patched(first, (b"\xff\xc0", 5, inside))


def mkv_of_seconds(milliseconds):
    """Six frames in a file that announces another length."""
    return _patched(video, (b"\x44\x89\x88", 3, struct.pack(">d", milliseconds)))


def mp4_of_frames(count):
    """Six frames in a file whose index has as many entries, all of them alike."""
    number = struct.pack(">I", count)
    return _patched(video, (b"stts", 12, number), (b"stsz", 8, struct.pack(">I", 10) + number))


def video_of_two_sizes(path):
    video(path, size=(32, 96), codec="mpeg2video", form="mpegts")
    second = path.read_bytes()
    video(path, codec="mpeg2video", form="mpegts")
    path.write_bytes(path.read_bytes() + second)


def sound(path):
    """Audio alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44_100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
