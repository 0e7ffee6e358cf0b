"""PE-Lang as the eyes of a multimodal language model: pictures and videos to the visual tokens of PLM."""

from pe_spatial.plm.model import PLMVision
from pe_spatial.plm.placing import place_tokens
from pe_spatial.plm.tiles import cut_picture, find_grid, squash
from pe_spatial.plm.video import choose_frames, read_frames
