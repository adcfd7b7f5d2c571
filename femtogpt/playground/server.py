"""The server: who may ask, how many at once, and what is answered. It listens on 127.0.0.1 alone.

Any page in the browser can send requests here, and any program on this machine. So a request must
name this machine as its host (a name that was re-bound to 127.0.0.1 does not), carry the token
that was printed, and, where it asks for work, come from our own page. No answer names a file but
those of the command line, and nothing of a request reaches the disk.
"""

import hmac
import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from .. import webpage
from ..errors import FemtoError
from ..exchange.html import writing as html
from ..webpage import csp_hash
from .answers import attention, beginning, written
from .asked import MOST_BYTES, MOST_SEEN, Refused, seen_of, settings_of

HOST = "127.0.0.1"
OURS = (HOST, "localhost")  # what a browser here may call it; a port may be forwarded to another
AT_ONCE = 8  # texts that are written at a time, and attentions
CONNECTIONS = 100
SLICE = 0.03  # seconds of tokens that are sent together
TOKEN_HEADER = "x-femtogpt-token"
HERE = Path(__file__).parent
SCRIPTS = ("text.js", "attention.js", "training.js", "page.js")


def listen(port):
    """A socket on 127.0.0.1. port: 0 for any that is free. Raises FemtoError."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise FemtoError(f"--port {port} cannot be listened on ({error.strerror}): name another, "
                         "or --port 0 for any that is free") from None


def serve(models, token, listener):
    """Answers until a signal, which it passes on once all is ended.

    models: of models.Served. token: what every request must carry. listener: of listen().
    """
    make_server(models, token).run([listener])


def make_server(models, token):
    """A uvicorn.Server, to be run."""
    playground = Playground(models, token)
    config = uvicorn.Config(
        playground.app, http="h11", loop="asyncio", ws="none", lifespan="off", log_config=None,
        access_log=False, proxy_headers=False, server_header=False, limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=2)
    return _Server(config, playground)


class _Server(uvicorn.Server):
    def __init__(self, config, playground):
        super().__init__(config)
        self.playground = playground

    def handle_exit(self, number, frame):
        self.playground.closing.set()
        super().handle_exit(number, frame)


class Playground:
    """What is served: .app, for any ASGI server. closing: set to end what is being written."""

    def __init__(self, models, token):
        self.models, self.closing, self.busy = models, threading.Event(), 0
        self._page, policy = _page()
        routes = [Route("/", self._index), Route("/api/models", self._models),
                  Route("/api/models/{number:int}", self._status),
                  Route("/api/generate", self._generate, methods=["POST"]),
                  Route("/api/attention", self._attention, methods=["POST"])]
        app = Starlette(routes=routes, exception_handlers={
            Refused: _refuse, HTTPException: _refuse, ClientDisconnect: _nobody, Exception: _fault})
        app.router.redirect_slashes = False
        self.app = Guard(app, token, policy)

    async def _index(self, request):
        return HTMLResponse(self._page)

    async def _models(self, request):
        return _json({"models": [model.path for model in self.models], "most_seen": MOST_SEEN})

    async def _status(self, request):
        served = self._served(request.path_params["number"])
        try:
            return _json(await run_in_threadpool(served.status, request.query_params.get("seen")))
        except FemtoError as error:
            raise Refused(503, str(error)) from None

    async def _generate(self, request):
        asked = settings_of(await _body(request))
        with ExitStack() as held:
            held.enter_context(self._working())
            model = await self._model(asked.model)
            try:
                ids, seed = await run_in_threadpool(beginning, model, asked)
            except FemtoError as error:
                raise Refused(400, str(error)) from None
            lines = written(model, ids, seed, asked, self.closing.is_set)
            return _Stream(lines, held.pop_all())

    async def _attention(self, request):
        asked = seen_of(await _body(request))
        with self._working():
            model = await self._model(asked.model)
            try:
                return _json(await run_in_threadpool(attention, model, asked.ids))
            except FemtoError as error:
                raise Refused(400, str(error)) from None

    def _served(self, number):
        if number >= len(self.models):
            raise Refused(404, f"there is no model {number}: {len(self.models)} are served")
        return self.models[number]

    async def _model(self, number):
        try:
            return (await run_in_threadpool(self._served(number).reading)).model
        except FemtoError as error:
            raise Refused(503, str(error)) from None

    @contextmanager
    def _working(self):
        """One of AT_ONCE, as long as it is open."""
        if self.busy >= AT_ONCE:
            raise Refused(429, f"{AT_ONCE} texts are being written already: wait until one of "
                               "them ends")
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1


class Guard:
    """Lets through to an ASGI app only who may ask; gives every answer its headers."""

    def __init__(self, app, token, policy):
        """policy: the Content-Security-Policy."""
        self._app, self._token = app, token.encode()
        self._headers = {
            "Content-Security-Policy": policy, "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin"}

    async def __call__(self, scope, receive, send):
        """ASGI's."""
        async def send_on(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        request = Request(scope)
        try:
            self._check(request)
        except Refused as error:
            await (await _refuse(request, error))(scope, receive, send_on)
            return
        await self._app(scope, receive, send_on)

    def _check(self, request):
        host = request.headers.get("host", "")
        name, _, port = host.partition(":")
        if name not in OURS or not (port.isdigit() or not port):
            raise Refused(403, f"this server answers to {' and '.join(OURS)} alone")
        given = request.headers.get(TOKEN_HEADER, "")
        if request.url.path == "/":
            given = request.query_params.get("token", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._token):
            raise Refused(403, "the token is missing or of another run: use the address that "
                               "`femtogpt playground` printed")
        origin = request.headers.get("origin")
        if origin != f"http://{host}" and not (origin is None and request.method == "GET"):
            raise Refused(403, "the request is from another page than ours")


class _Stream(StreamingResponse):
    """Dicts as lines of JSON, while they are made in another thread. A client that goes away
    ends it: Starlette then cancels what sends, and no more are made."""

    def __init__(self, lines, held):
        """held: what is open until it ends."""
        super().__init__(self._chunks(lines), media_type="application/x-ndjson")
        self._held = held

    async def __call__(self, scope, receive, send):
        with self._held:
            await super().__call__(scope, receive, send)

    async def _chunks(self, lines):
        while chunk := await run_in_threadpool(_slice, lines):
            yield chunk


def _slice(lines):
    """What an iterator of dicts yields within SLICE seconds, as lines; b"" at its end."""
    chunk, until = "", time.perf_counter() + SLICE
    for line in lines:
        chunk += json.dumps(line) + "\n"
        if time.perf_counter() > until:
            break
    return chunk.encode()


async def _body(request):
    """A request's body (bytes). Raises Refused."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Refused(415, "the request must be application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Refused(413, f"the request is larger than {MOST_BYTES:,} bytes")
    return body


def _json(values, status=200):
    return Response(json.dumps(values), status, media_type="application/json")


async def _refuse(request, error):
    """The answer for a Refused, or Starlette's HTTPException of 404 and 405."""
    if isinstance(error, Refused):
        return _json({"error": str(error)}, error.status)
    return _json({"error": f"{error.detail}: there is nothing here"}, error.status_code)


async def _nobody(request, error):
    return Response(status_code=400)  # whoever asked is gone


async def _fault(request, error):
    return _json({"error": "a fault of femtogpt's own: the terminal tells more"}, 500)


def _page():
    """(the page, its Content-Security-Policy): one file, which may talk to us alone."""
    style = "".join(path.read_text("utf-8") for path in (
        webpage.HERE / "webpage.css", html.HERE / "page.css", HERE / "playground.css"))
    script = "\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS)
    page = (HERE / "page.html").read_text("utf-8")
    page = page.replace("$style", style).replace("$script", script)
    return page, (f"default-src 'none'; script-src '{csp_hash(script)}'; style-src "
                  f"'{csp_hash(style)}'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                  "frame-ancestors 'none'")
