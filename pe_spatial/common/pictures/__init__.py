"""Picture files: the one place that decodes and encodes them."""

from pe_spatial.common.errors import PictureError
from pe_spatial.common.picture_files import naming_file, say_once
from pe_spatial.common.pictures.layout import Layout, picture_facts
from pe_spatial.common.pictures.reading import image_size, pixels_of, read_bands_of, read_image, to_image
from pe_spatial.common.pictures.resizing import resize_picture
from pe_spatial.common.pictures.scaling import FEW_LEVELS, ValueRule, guessed_bits
from pe_spatial.common.pictures.values import IndexModeError, read_indices, read_values
from pe_spatial.common.pictures.writing import save_image
from pe_spatial.common.suffixes import IMAGE_SUFFIXES
