"""The same as `pe-spatial demo`."""

import sys

from pe_spatial.commands.shell import run_command

if __name__ == "__main__":
    sys.exit(run_command("demo"))
