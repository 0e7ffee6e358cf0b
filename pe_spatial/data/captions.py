"""Pictures with captions."""

from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.common.reading import read_json
from pe_spatial.data.annotations import file_below
from pe_spatial.data.dataset import DenseDataset


@DATASETS.register_module()
class CaptionedPictures(DenseDataset):
    """The pictures that a JSON file names, each with its captions: `{"a/1.jpg": ["a red disc", "a disc"]}`.

    Records have `captions`, which reach the model in the metainfo of a sample. A transform that flips pictures makes
    captions such as "on the left" wrong.

    Args:
        ann_file: The JSON file, relative to `data_root`.
        data_prefix: The folder `img_path` that names are relative to, relative to `data_root`.
        **kwargs: Those of `DenseDataset`.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record for each picture.

        Raises:
            AnnotationError: A name without captions, or no name at all.
            UnreadableFile: The file is damaged.
        """
        listed = read_json(Path(self.ann_file), {})
        folder = Path(self.data_prefix.get("img_path") or self.data_root or "")
        wrong = [name for name, texts in listed.items() if not _is_captions(texts)]
        if wrong or not listed:
            raise AnnotationError(
                f"{self.ann_file}: {len(wrong)} of {len(listed)} pictures have no captions ({few(wrong)}); "
                'write {"a/1.jpg": ["a caption"]}'
            )
        return [
            {"img_path": str(file_below(folder, name, self.ann_file)), "img_id": number, "captions": texts}
            for number, (name, texts) in enumerate(listed.items())
        ]


def _is_captions(texts: Any) -> bool:  # noqa: ANN401 - what a file of others holds
    return isinstance(texts, list) and bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)
