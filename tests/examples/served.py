"""A running service to ask, and pictures for it."""

import threading
import time
from argparse import Namespace
from contextlib import contextmanager
from http.client import HTTPConnection
from io import BytesIO

import numpy as np
import uvicorn
from PIL import Image

from service.app import create_app, server_config
from service.settings import Settings

ROOMY = Settings(max_batch=4, max_delay=20, queue=64, threads=1)
SIZES = ((24, 32), (40, 24), (24, 32), (33, 57))


def picture(number, form="PNG"):
    """The bytes of a picture with content of its own."""
    height, width = SIZES[number % len(SIZES)]
    coarse = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(buffer, form)
    return buffer.getvalue()


class Client:
    """Asks a running server."""

    def __init__(self, server, service, thread):
        self.server, self.service, self.thread = server, service, thread
        self.port = server.servers[0].sockets[0].getsockname()[1]

    def ask(self, method, path, body=None, **headers):
        """(status, headers, body)."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def predict(self, body, query="", **headers):
        return self.ask("POST", f"/predict{query}", body, **{"Content_Type": "image/png", **headers})

    def metric(self, name):
        lines = self.ask("GET", "/metrics")[2].decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines)[name]


@contextmanager
def serving(predictor, limits):
    """A real server on a free port, in a thread of this process; it ends as `pe-spatial`'s service does on SIGTERM."""
    app = create_app(predictor, limits)
    options = Namespace(host="127.0.0.1", port=0, connections=200, stop_seconds=30)
    server = uvicorn.Server(server_config(app, options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield Client(server, app.state.service, thread)
    finally:
        server.should_exit = True
        thread.join()
