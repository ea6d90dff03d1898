"""The service: volumes in, masks out, and the page to look at them."""

import asyncio
import logging
import mimetypes
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from src.serve import metrics as metrics_module
from src.serve import view as view_module
from src.serve.body import BodyGuard
from src.serve.job import ClientGone, Job
from src.serve.limits import Limits, Refusal
from src.serve.metrics import Metrics
from src.serve.places import Places
from src.serve.segmenter import Answer, Segmenter

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
CLIENT_GONE = 499  # as nginx counts it; nobody gets it
_HOW = "send one file as multipart/form-data in the field 'file', e.g. curl -F file=@volume.nii.gz"
_FILE_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}}}}}


def create_app(segmenter: Segmenter, limits: Limits) -> FastAPI:
    """Return the application; it closes the segmenter at its end."""
    service = _Service(segmenter, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(segmenter.close)

    # No pages of documentation: they load their scripts from the network. /openapi.json stays.
    app = FastAPI(title="V-Net segmentation", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(BodyGuard, limits=limits)
    app.mount("/static", StaticFiles(directory=PAGE), "static")
    app.add_exception_handler(HTTPException, _told)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/health", summary="Whether the service works, what it runs, and its limits")
    async def health() -> JSONResponse:
        return service.health()

    @app.get("/metrics", summary="Figures in Prometheus' text format")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=metrics_module.CONTENT_TYPE)

    @app.post("/predict", summary="The mask of a volume, in the same kind of file", openapi_extra=_FILE_BODY)
    async def predict(request: Request) -> Response:
        return await service.respond(request, _mask_file)

    @app.post("/view", summary="Volume and mask for the page", openapi_extra=_FILE_BODY)
    async def view(request: Request) -> Response:
        return await service.respond(request, service.for_page)

    return app


class _Service:
    def __init__(self, segmenter: Segmenter, limits: Limits):
        self.segmenter = segmenter
        self.limits = limits
        self.metrics = Metrics()
        self.metrics.places.set(limits.places)
        self.places = Places(limits, self.metrics.taken.set)

    def health(self) -> JSONResponse:
        """Tell what runs; 503 when the network is at one volume for far longer than anybody waits for it."""
        source, limits, busy = self.segmenter.source, self.limits, self.segmenter.busy_seconds()
        stuck = busy > 2 * limits.seconds
        return JSONResponse({
            "status": "stuck" if stuck else "ok", "model": source.title, "classes": source.manager.classes,
            "places": limits.places, "places_taken": self.places.taken, "network_seconds": round(busy, 1),
            "limits": {"upload_bytes": limits.upload_bytes, "voxels": limits.voxels, "seconds": limits.seconds},
        }, 503 if stuck else 200)

    def for_page(self, answer: Answer) -> Response:
        content = view_module.pack_view(answer, self.segmenter.source.manager.classes)
        return Response(content, media_type=view_module.CONTENT_TYPE)

    async def respond(self, request: Request, form: Callable[[Answer], Response]) -> Response:
        """Answer an upload, with the mask as `form` puts it or with the reason why there is none."""
        started = time.perf_counter()
        path = request.scope["path"]
        try:
            response = await self._answer(request, form)
        except Exception:  # a defect of ours, be it in a refusal, costs this request only
            number = uuid.uuid4().hex[:8]
            logger.exception("%s failed, error %s", path, number)
            response = _refused(Refusal(500, f"the service failed; its log tells more under {number}"))
        seconds = time.perf_counter() - started
        self.metrics.requests.labels(path, response.status_code).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        if response.status_code == 200:
            # Without the file's name, which may be a patient's.
            logger.info("%s: %.2f s", path, seconds)
        return response

    async def _answer(self, request: Request, form: Callable[[Answer], Response]) -> Response:
        path = request.scope["path"]
        try:
            return await self._segment(request, form)
        except Refusal as refusal:
            logger.info("%s refused (%d): %s", path, refusal.status, refusal.logged)
            return _refused(refusal)
        except (ClientGone, ClientDisconnect):
            self.metrics.gone.inc()
            logger.info("%s: the client left", path)
            return Response(status_code=CLIENT_GONE)

    async def _segment(self, request: Request, form: Callable[[Answer], Response]) -> Response:
        give_back = self.places.take()
        job = Job()
        working = None
        try:
            async with asyncio.timeout(self.limits.seconds):
                upload = await _uploaded(request)
                # The place and the file go when the thread is done with them, not when the client goes.
                working = self.segmenter.submit(job, upload.file, upload.filename or "", form)
                working.add_done_callback(lambda _: (upload.file.close(), give_back()))
                response = await _unless_gone(asyncio.wrap_future(working), request)
                self._learn(job.seconds)
                response.headers["Server-Timing"] = ", ".join(
                    f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in job.seconds.items())
                return response
        except TimeoutError:
            seconds = f"{self.limits.seconds:g} s"
            if working is None:
                raise Refusal(408, f"the upload took more than {seconds}; send the volume compressed, or "
                                   "crop it") from None
            raise Refusal(504, f"no mask within {seconds}; try again when the service is less busy, or crop the volume",
                          self.places.wait_seconds()) from None
        finally:
            job.cancel()
            if working is None:
                give_back()
            else:
                working.cancel()

    def _learn(self, stages: dict[str, float]) -> None:
        for stage, seconds in stages.items():
            self.metrics.stages.labels(stage).observe(seconds)
        self.places.learn(sum(seconds for stage, seconds in stages.items() if stage != "wait"))


async def _uploaded(request: Request) -> UploadFile:
    """Receive the upload.

    Raises:
        Refusal: 400 or 415, it is none.
        ClientDisconnect: the client left.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise Refusal(415, f"the request's Content-Type is {kind.decode('latin-1') or 'missing'}; {_HOW}")
    # Python knows charsets that make names of what is no text, or that fail by design.
    if (charset := options.get(b"charset", b"utf-8").lower()) not in (b"utf-8", b"utf8"):
        raise Refusal(400, f"the Content-Type's charset is {charset.decode('latin-1')}, expected utf-8 or none; {_HOW}")
    try:
        form = await request.form(max_files=1, max_fields=8)
    except (HTTPException, UnicodeError) as error:
        raise Refusal(400, f"the request's form is broken ({getattr(error, 'detail', error)}); {_HOW}") from error
    upload = form.get("file")
    if not isinstance(upload, UploadFile) or not upload.filename:
        await form.close()
        raise Refusal(400, f"the request has no file in the field 'file'; {_HOW}")
    if not upload.size:
        await form.close()
        raise Refusal(400, "the file is empty; check it, and send it again")
    return upload


async def _unless_gone(working: "asyncio.Future[Response]", request: Request) -> Response:
    """Wait for the answer, or for the client to leave, which raises `ClientGone`."""
    gone = asyncio.create_task(_disconnected(request))
    # Whoever left does not ask for the error either, which asyncio would report as forgotten.
    working.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    waiting: set[asyncio.Future[Any]] = {working, gone}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not working.done():
        raise ClientGone
    return working.result()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _mask_file(answer: Answer) -> Response:
    kind = mimetypes.guess_type(answer.name)[0] if answer.name.endswith((".zip", ".gz")) else None
    plain = answer.name.encode("ascii", "replace").decode().replace("?", "_")  # for clients such as curl
    return Response(answer.content, media_type=kind or "application/octet-stream", headers={
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(answer.name)}"})


def _refused(refusal: Refusal) -> JSONResponse:
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return JSONResponse({"error": refusal.reason}, refusal.status, headers)


async def _told(request: Request, error: Exception) -> JSONResponse:
    """Answer an unknown path or method in the form of all other refusals."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": f"{request.method} {request.scope['path']}: {error.detail}"}, error.status_code,
                        error.headers)
