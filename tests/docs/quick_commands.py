"""The programs `pe-spatial` and `python` without the seconds of their imports, as forks of a process that has them.

`python quick_commands.py FOLDER` writes the two programs into a folder, for a PATH to begin with. Each is a client.
It hands its arguments, folder, environment and standard streams to the process that serves, and ends as the fork does.
"""

import array
import contextlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from importlib import import_module
from pathlib import Path

CLIENT = """#!{python} -SE
import array, json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = json.dumps([{program!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    server.sendmsg([len(call).to_bytes(8, "big")], rights)
    server.sendall(call)
    fork = int(server.recv(8).decode())
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(fork, number))
    sys.exit(int(server.recv(16) or 1))
"""


def serve(folder: Path) -> None:
    """Import, write the programs, and answer calls until it is ended."""
    from pe_spatial.commands.shell import COMMANDS

    for name in COMMANDS:
        import_module(f"pe_spatial.commands.{name.replace('-', '_').replace(' ', '_')}")
    for name in ("detection", "segmentation", "depth", "tracking", "own.run", "alignment"):
        import_module(f"pe_spatial.{name}")
    with contextlib.suppress(ImportError):  # of the extra `segmentation`
        import_module("mmseg.models")
    address = str(folder / "socket")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        for program in ("pe-spatial", "python"):
            path = folder / program
            path.write_text(CLIENT.format(python=sys.executable, address=address, program=program))
            path.chmod(0o755)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Be the program that a client has called; ends the process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    streams = array.array("i")
    head, rights, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * streams.itemsize))
    streams.frombytes(rights[0][2])
    size, call = int.from_bytes(head, "big"), b""
    while len(call) < size:
        call += connection.recv(size - len(call))
    connection.sendall(f"{os.getpid():8}".encode())
    program, arguments, folder, environment = json.loads(call)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # not those of the process that serves, which know what kind of file they were
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, "w" if number else "r", encoding="utf-8") for number in range(3)
    )
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    status = _run(program, arguments)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    connection.sendall(str(status).encode())
    os._exit(0)


def _run(program: str, arguments: list[str]) -> int:
    from pe_spatial.commands.shell import main

    sys.argv, sys.path[0] = [program, *arguments], ""
    try:
        if program == "pe-spatial":
            return main(arguments)
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        elif arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
