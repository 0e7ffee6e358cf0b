"""The features of any encoder: in Python, in files, and read back from them."""

from pe_spatial.features.extractor import FeatureExtractor
from pe_spatial.features.reader import FeatureFolder, open_features
