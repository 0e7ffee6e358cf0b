"""Suffixes of the files that the toolkit reads, in lower case; names are compared without regard to case."""

HEIF_SUFFIXES = (".heic", ".heif")  # read where the package pillow-heif is installed, and never written
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".tga", ".jp2", ".j2k", ".avif", ".gif", ".mpo", ".apng", *HEIF_SUFFIXES),
)
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".avi", ".divx", ".mkv", ".mk3d", ".webm", ".wmv", ".asf"),
    *(".flv", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob", ".ts", ".m2t", ".mts", ".m2ts", ".tod", ".ogv", ".ogg"),
    *(".rm", ".rmvb", ".dv", ".mxf", ".mj2", ".mjpg", ".mjpeg", ".h264", ".264", ".hevc", ".h265", ".265", ".ivf"),
    *(".obu", ".nut", ".y4m", ".gif"),
)
AMBIGUOUS_SUFFIXES = (".ts", ".ogg")  # also of source code and of sound: their content says whether they are videos
