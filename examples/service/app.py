"""The web application: a predictor behind four addresses.

POST /predict   the bytes of a picture; the answer is JSON, a drawn picture or a map
GET  /health    200 while the process answers
GET  /ready     200 while pictures are taken
GET  /metrics   figures for Prometheus
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Header, HTTPException, Query, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pe_spatial.common.errors import OptionError, UserError
from pe_spatial.common.memory import process_memory
from pe_spatial.common.threads import side_threads
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.stream import Prepared, is_out_of_memory, predict_each
from service.answers import Form, render
from service.batching import Batcher
from service.intake import Admission, busy, check_head, measure, read_body, refusal
from service.metrics import Metrics
from service.settings import Settings

T = TypeVar("T")
_BODY = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}
_LEFT = 499  # as of nginx: the client has closed the connection


class Service:
    """A predictor with the threads around it.

    Pictures are decoded, prepared and drawn by a few readers, each on one core; one thread runs the model.

    Args:
        predictor: Of any task; its `batch_size` is that of the service.
        settings: The limits.
    """

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        self.predictor, self.settings = predictor, settings
        predictor.max_pixels = settings.max_pixels
        self.metrics = Metrics()
        self.admission = Admission(settings.queue, settings.waiting_pixels)
        self.readers = side_threads(settings.readers, "reader")
        self.batcher = Batcher(
            partial(predict_each, predictor),
            settings.max_batch,
            settings.max_delay / 1000,
            self.metrics,
            partial(torch.set_num_threads, settings.threads),
        )
        add = self.metrics.add
        add("pe_spatial_requests_inside", "Requests that have a place", lambda: self.admission.requests)
        add("pe_spatial_pixels_inside", "Pixels of their pictures", lambda: self.admission.pixels)
        add("process_resident_memory_bytes", "Memory of the process", process_memory)

    @property
    def retry_after(self) -> float:
        """Seconds until what is inside will have been answered."""
        return self.admission.requests * self.batcher.seconds_per_picture

    def start(self) -> None:
        """Start the model's thread and predict a black picture: the first is slow, and what cannot run shows now."""
        self.batcher.start()
        black = self._prepare(np.zeros((64, 64, 3), np.uint8))
        render(self._submit(black).result(), "json", self.settings.threshold)

    def stop(self) -> None:
        """Finish what was taken, and end the threads."""
        self.batcher.stop()
        self.readers.shutdown()

    async def answer(self, request: Request, form: Form, threshold: float) -> Response:
        """The answer to a request for a prediction.

        Raises:
            HTTPException: The request is refused; see `service.intake`.
        """
        settings, admission = self.settings, self.admission
        check_head(request, settings.max_upload)
        with admission.place(self.retry_after):
            content = await read_body(request, settings.max_upload, settings.upload_seconds)
            pixels = await self._read(measure, content, settings.max_pixels)
            with admission.room(pixels, self.retry_after):
                prepared = await self._read(self._prepare, content)
                del content  # it need not wait with the picture
                predicted = self._submit(prepared)
                del prepared
                sample = await asyncio.wrap_future(predicted)
                body, kind = await self._read(render, sample, form, threshold)
        return Response(body, media_type=kind)

    def _prepare(self, picture: Any) -> Prepared:  # noqa: ANN401 - whatever a predictor loads
        sample = self.predictor.load(picture)
        return sample["img"], self.predictor.transform(sample)

    def _submit(self, prepared: Prepared) -> Any:  # noqa: ANN401 - a future of a PredictedSample
        # pictures of one size are not padded for each other, so a batch changes no more than the last digits
        return self.batcher.submit(prepared, tuple(prepared[1]["inputs"].shape))

    async def _read(self, work: Callable[..., T], *arguments: object) -> T:
        """What a reader returns."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, partial(work, *arguments))


class CountAnswers:
    """Counts the answers of `/predict` by their status, whatever has written them, and the seconds of good ones."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        started = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.add(message["status"])
                if message["status"] == 200:
                    self.metrics.request_seconds.observe(time.perf_counter() - started)
            await send(message)

        is_counted = scope["type"] == "http" and scope["path"] == "/predict"
        try:
            await self.app(scope, receive, counted if is_counted else send)
        except Exception:  # a bug, which is answered 500 further out
            if is_counted:
                self.metrics.requests.add(500)
            raise


def create_app(predictor: Predictor, settings: Settings) -> FastAPI:
    """The application; its `state.service` is the `Service`.

    Args:
        predictor: As `open_predictor` returns it.
        settings: The limits.
    """
    service = Service(predictor, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.start)
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(title="pe_spatial", description=f"Predictions of {predictor.checkpoint.name}", lifespan=lifespan)
    app.state.service = service
    app.add_middleware(CountAnswers, metrics=service.metrics)

    @app.post("/predict", response_class=Response, openapi_extra=_BODY)
    async def predict(
        request: Request,
        form: Annotated[Form | None, Query(alias="format")] = None,
        threshold: Annotated[float | None, Query(ge=0, le=1)] = None,
        accept: Annotated[str, Header()] = "",
    ) -> Response:
        """Predict one picture. `format` is json, picture or map; without it `Accept: image/png` means picture."""
        form = form or ("picture" if "image/png" in accept else "json")
        lowest = settings.threshold if threshold is None else threshold
        try:
            return await service.answer(request, form, lowest)
        except ClientDisconnect:
            return Response(status_code=_LEFT)
        except OptionError as error:
            raise HTTPException(400, str(error)) from error
        except UserError as error:
            raise refusal(error) from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise busy("the memory is used up; try again later", service.retry_after) from error

    @app.get("/health", response_class=Response)
    async def health() -> Response:
        """The process answers."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/ready", response_class=Response)
    async def ready() -> Response:
        """Pictures are taken; 503 while all places are taken, and when the service stops."""
        if not service.batcher.is_running or service.admission.is_full:
            raise busy("no picture is taken now", service.retry_after)
        return Response("ready\n", media_type="text/plain")

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def serve(app: FastAPI, options: argparse.Namespace) -> int:
    """Serve until the process is asked to stop (Ctrl-C, SIGTERM); what was taken is answered before it ends.

    Args:
        app: Of `create_app`.
        options: With `host`, `port`, `connections` and `stop_seconds`.

    Returns:
        The exit status: 0, or 1 if it could not start.
    """
    server = uvicorn.Server(server_config(app, options))
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again when all is answered
        server.run()
    return 0 if server.started else 1


def server_config(app: FastAPI, options: argparse.Namespace) -> uvicorn.Config:
    """How uvicorn runs it; one process, for each would load a model of its own."""
    return uvicorn.Config(
        app,
        host=options.host,
        port=int(options.port),
        limit_concurrency=int(options.connections),
        timeout_graceful_shutdown=int(options.stop_seconds),
        log_level="warning",
        access_log=False,
    )
