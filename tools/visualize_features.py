"""The same as `pe-spatial visualize`."""

from pe_spatial.commands.shell import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("visualize"))
