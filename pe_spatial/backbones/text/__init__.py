"""PE-Core with its text tower: words and pictures in one space of features."""

from pe_spatial.backbones.text.aligned import TextAlignedMap
from pe_spatial.backbones.text.classes import Prompts, class_vectors, fill_template, text_vectors
from pe_spatial.backbones.text.core import PECore
from pe_spatial.backbones.text.head import TextAlignedHead
from pe_spatial.backbones.text.preprocessing import prepare_picture
from pe_spatial.backbones.text.runs import open_core, save_core
from pe_spatial.backbones.text.tokenizer import Tokenizer, open_tokenizer
from pe_spatial.backbones.text.tower import TextTower
