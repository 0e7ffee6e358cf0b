"""A dataset of small noise images, for the tests of this folder."""

import numpy as np
import pytest
from PIL import Image

from pe_spatial.data import DenseDataset


class NoiseImages(DenseDataset):
    """The records given to it."""

    def __init__(self, records, **options):
        self.records = records
        super().__init__(**options)

    def load_data_list(self):
        return list(self.records)  # mmengine empties the list it is given


AUGMENTING = [
    {"type": "LoadImage"},
    {"type": "LoadInstances"},
    {"type": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 0.5},
    {"type": "ScaleJitter", "target_size": [40, 40], "scale_range": [0.5, 2.0]},
    {"type": "FixedSizeCrop", "size": [32, 32]},
    {"type": "SanitizeInstances", "fit_boxes": True},
    {"type": "PackSample"},
]


@pytest.fixture(scope="session")
def noise_records(tmp_path_factory):
    """Eleven records with one box each; sizes differ."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    records = []
    for number in range(11):
        H, W = 20 + number, 30
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (H, W, 3), dtype=np.uint8)).save(path)
        instance = {"bbox": [3, 4, 20, 15], "label": number % 3, "mask": [[3, 4, 20, 4, 20, 15, 3, 15]]}
        record = {"img_path": str(path), "img_id": number, "height": H, "width": W, "instances": [instance]}
        records.append(record)
    return records


@pytest.fixture
def noise_dataset(noise_records):
    return NoiseImages(noise_records, pipeline=AUGMENTING)


@pytest.fixture
def make_noise_dataset():
    return NoiseImages
