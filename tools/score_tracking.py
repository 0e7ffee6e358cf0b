"""The same as `pe-spatial score`."""

from pe_spatial.commands.shell import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("score"))
