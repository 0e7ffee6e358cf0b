"""`python -m pe_spatial NAME ...`: the same as `pe-spatial NAME ...`."""

import sys

from pe_spatial.commands.shell import main

if __name__ == "__main__":
    sys.exit(main())
