"""Child processes that start fast and clean: forked from a server that has imported torch and has never used it."""

import multiprocessing

# a child forked from the tests themselves could not run a backward pass after a test that did
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("pe_spatial.training.launch", "torch.utils.tensorboard", "matplotlib.pyplot", "yapf.yapflib.yapf_api"),
        *(f"pe_spatial.{task}.results" for task in ("detection", "segmentation", "depth")),
    ]
)
