"""Small trained models and their exports, made once for the tests of a file."""

import pe_spatial
from pe_spatial.commands.shell import run_command

FAST = {"iterations": 4, "image_size": 32, "workers": 0, "batch_size": 2, "format": "masks"}


def train(folder, task, model, data="drawn", **options):
    """A run of few steps on drawn scenes; its folder."""
    if not (folder / data).exists():
        drawn = ["--output", str(folder / data), "--images", "12", "--image-size", "32", "--no-photographs"]
        assert run_command("demo", drawn) == 0
    options = {**FAST, **options}
    if task != "segmentation":
        options.pop("format")
    pe_spatial.train(
        task,
        data=folder / data,
        model=model,
        output=folder / task,
        overrides=[f"experiment_name=export_{task}_{folder.name}"],
        **options,
    )
    return folder / task
