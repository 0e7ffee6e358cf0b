"""The formats that people have: what a file or folder is, and what is in it.

`recognize` says what can be read, `read_instances` reads boxes and masks of any format into COCO's terms,
`pe_spatial.data.formats.writing` writes them, and `open_source` gives the table that is trained on and evaluated.
Formats that a dataset of the project reads (label maps, panoptic, depth, videos) are recognized, with the config of
that dataset.
"""

from pe_spatial.data.formats.content import Instances
from pe_spatial.data.formats.reading import Reading, Source
from pe_spatial.data.formats.recognition import FORMATS, choose, read_instances, recognize
from pe_spatial.data.formats.tables import open_source
