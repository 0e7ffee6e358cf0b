"""`python -m service --checkpoint RUN`: load the model, then serve it."""

import sys

from pe_spatial.commands.shell import run_module
from service import settings

if __name__ == "__main__":
    raise SystemExit(run_module(settings, "python -m service", sys.argv[1:]))
