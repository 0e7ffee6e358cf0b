"""The one door to video: files and cameras are read, and files are written, here only."""

from pe_spatial.common.video.cameras import Camera
from pe_spatial.common.video.reading import (
    UnreadableFrame,
    VideoFrame,
    VideoReader,
    count_frames,
    is_video,
    measure_frames,
)
from pe_spatial.common.video.writing import VideoWriter
