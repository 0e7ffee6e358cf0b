"""Child processes that start fast and clean: forked from a server that has imported torch and has never used it."""

import gc
import multiprocessing.context

from PIL import _plugins

from pe_spatial.common.trust import trusting


class _Process(multiprocessing.context.ForkServerProcess):
    def run(self):
        gc.freeze()  # what the server has imported: mmengine collects garbage for every dataset
        with trusting(["toy_task"]):  # as the tests do
            super().run()


class _Context(multiprocessing.context.ForkServerContext):
    Process = _Process


# a child forked from the tests themselves could not run a backward pass after a test that did
CONTEXT = _Context()
CONTEXT.set_forkserver_preload(
    [
        *("pe_spatial.training.launch", "torch.utils.tensorboard", "matplotlib.pyplot", "yapf.yapflib.yapf_api"),
        *(f"pe_spatial.{task}.results" for task in ("detection", "segmentation", "depth", "tracking")),
        *("pe_spatial.commands.predict", "pe_spatial.commands.track", "pe_spatial.tracking.running"),
        *(f"PIL.{name}" for name in _plugins),  # the first picture that is written asks for all of them
    ]
)
