"""Suffixes of the files that the toolkit reads, in lower case; names are compared without regard to case."""

HEIF_SUFFIXES = (".heic", ".heif")  # read where the package pillow-heif is installed, and never written
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".tga", ".jp2", ".j2k", ".avif", ".gif", ".mpo", ".apng", *HEIF_SUFFIXES),
)
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".mts", ".m2ts", ".gif")
