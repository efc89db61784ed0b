"""The page of `easy_inference_demo.py --web`: drop a file or record, read the verdict, see where in the file.

Two routes: GET / is the page; POST /judge takes one recording as the body of the request and answers in JSON. No
request can name a file or an address, and the server sends no requests. An upload is stored in a file without a name;
the kernel deletes it after the answer, or when the process ends for any reason.
"""

import asyncio
import contextlib
import hashlib
import html
import io
import ipaddress
import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
import unicodedata
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from common.console import Stopped, UserError
from corpora import AUDIO_EXTENSIONS
from inference.judging import Judge
from inference.picture import draw
from inference.verdicts import SHOWN

try:  # matplotlib too: otherwise `draw` would fail only in the first answer
    import anyio
    import matplotlib.figure  # noqa: F401
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise UserError(
        f"--web: expected all of requirements-web.txt ({error}); pip install -r requirements-web.txt"
    ) from error

MAX_UPLOAD = 200 * 10**6  # bytes of a request: three hours of mp3 at 128 kbit/s
LONGEST = 3 * 3600  # seconds of audio; a small file can be very long
UPLOADS = 8  # at once, so at most 1.6 GB on disk; further visitors are asked to try again
WORKERS = 4  # uploads judged at once; they share the detector batch by batch, see Judge
PATIENCE, SLOWEST = 20, 100_000  # an upload may take this many seconds, plus one second per this many bytes
NO_MORE = "the server is shutting down"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


# ---------------------------------------------------------------------------------------------------------- judging


def answer(
    judge: Judge, path: str, name: str, stopped: Callable[[], bool] = lambda: False, narrow: bool = False
) -> tuple[int, dict]:
    """Answer of the page for the recording `path` called `name`: (HTTP status, plain data).

    stopped: called often; judging ends soon after it returns True. narrow: draw for the screen of a telephone.
    Raises HTTPException if it is stopped, if the audio is longer than LONGEST, or if judging takes too long for the
    duration of the audio.
    """
    started = time.monotonic()

    def check(seconds):
        if stopped():
            raise HTTPException(503, NO_MORE)
        if seconds > LONGEST:
            raise HTTPException(413, f"{name}: expected audio of at most {LONGEST // 3600} hours; cut it")
        # Each sample is scored once with the whole file, or once per overlapping window: twice real time for each.
        limit = 60 + 2 * seconds * (1 + judge.window / judge.hop)
        if time.monotonic() - started > limit:
            raise HTTPException(503, f"{name}: took more than {limit:.0f} s, the limit for {seconds:.0f} s of audio")

    check(0)
    (judged,) = judge.judge({name: path}, timeline=True, check=check)
    if judged.error:
        return 422, {"error": judged.error}
    rows = [
        ("file", f"{name}, {judged.seconds:.2f} s"),
        ("score", "none" if judged.score is None else f"{judged.score:.4f} (higher is more genuine)"),
        ("reason", judge.reason(judged)),
        ("probability", judge.about_probability(judged)),
        ("windows", judge.about_windows(judged)),
        ("time", f"{judged.took:.2f} s"),
    ]
    picture = io.BytesIO()
    draw(picture, judged, judge, check, narrow)
    probability = judge.probability(judged)
    stretches = sorted(judge.stretches(judged), key=lambda stretch: stretch.rank)[:SHOWN]
    lines = judge.about_stretches(judged)
    return 200, {
        "verdict": judge.in_words(judged),
        "finding": judge.finding(judged),
        "reason": judge.reason(judged),
        "said": judge.about_errors() if judge.finding(judged) else judge.reason(judged),
        "warning": judge.warning,
        "notes": [note for note in judge.notes(judged) if note not in judge.reason(judged)],
        "seconds": judged.seconds,
        "probability": "" if probability is None else f"{probability:.3f}",
        "stretches": [{"start": stretch.start, "text": line} for stretch, line in zip(stretches, lines)],
        "more": "".join(lines[SHOWN:]),
        "rows": [(key, text) for key, text in rows if text],
        "picture": f"data:image/png;base64,{b64encode(picture.getvalue()).decode()}",
    }


# ---------------------------------------------------------------------------------------------------------- requests


def _check_sender(request):
    """Raise HTTPException for a POST that a page of another site may have sent.

    Such a page cannot send this Content-Type without a CORS preflight request, which the server refuses. The other
    checks are for browsers that do not enforce this.
    """
    own = f"{request.url.scheme}://{request.headers.get('host')}".lower()
    if any(origin.lower() != own for origin in request.headers.getlist("origin")):
        raise HTTPException(403, f"expected a request from this page, {own}, found one from another site")
    if any(site not in ("same-origin", "none") for site in request.headers.getlist("sec-fetch-site")):
        raise HTTPException(403, "expected a request from this page, found one from another site")
    kind = request.headers.get("content-type", "none")
    if kind.partition(";")[0].strip().lower() != "application/octet-stream":
        raise HTTPException(415, f"expected one file as application/octet-stream, found Content-Type {kind:.80}")
    if int(request.headers.get("content-length", 0)) > MAX_UPLOAD:
        raise _too_large()


def _too_large():
    return HTTPException(413, f"expected a file of at most {MAX_UPLOAD / 1e6:g} MB; cut or compress it")


async def _receive(request, file, stopped):
    """Write a request's body to a file as it arrives.

    Raises HTTPException if it is too large or too slow, and ClientDisconnect if the visitor leaves.
    """
    started, size, message = time.monotonic(), 0, None
    try:
        while message is None or message.get("more_body"):
            coming = asyncio.ensure_future(request.receive())
            while True:
                done, _ = await asyncio.wait({coming}, timeout=0.5)
                limit = PATIENCE + size / SLOWEST
                if stopped():
                    raise HTTPException(503, NO_MORE)
                if time.monotonic() - started > limit:
                    why = f"the upload took more than {limit:.0f} s, the limit for the {size} bytes received"
                    raise HTTPException(408, why, {"Connection": "close"})
                if done:
                    break
            message = coming.result()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            size += len(message.get("body", b""))
            if size > MAX_UPLOAD:
                raise _too_large()
            try:
                await anyio.to_thread.run_sync(file.write, message.get("body", b""))
            except OSError as error:
                raise HTTPException(507, f"the upload cannot be stored: {error.strerror}") from error
    finally:
        coming.cancel()


@contextlib.contextmanager
def _open_upload():
    """Open a temporary file for an upload: (file, path). On Linux it has no name and vanishes once it is closed."""
    nameless = os.path.isdir("/proc/self/fd")
    with (tempfile.TemporaryFile if nameless else tempfile.NamedTemporaryFile)(buffering=0) as file:
        yield file, f"/proc/{os.getpid()}/fd/{file.fileno()}" if nameless else file.name


def _display_name(name):
    """Display name of an uploaded file: without folders and invisible characters."""
    name = "".join(c for c in re.split(r"[/\\]", name)[-1] if unicodedata.category(c)[0] != "C").strip()
    return name[-100:] or "recording"


def _json(status, content, headers=None):
    text = json.dumps(content).replace("<", "\\u003c")  # no markup, even if a browser takes it for a page
    return Response(text, status, headers, "application/json")


def _build_app(judge, hosts=None, stopped=lambda: False):
    """Build the page as an ASGI application.

    hosts: host names that it answers to, so that another site cannot reach it under its own name (DNS rebinding); None:
    any. stopped: returns whether the server is shutting down.
    """
    uploads, workers = anyio.Semaphore(UPLOADS), anyio.CapacityLimiter(WORKERS)
    config = judge.detector.config
    page = Path(__file__).with_name("web_page.html").read_text()
    for name, value in {
        "detector": f"{config.model_name}, encoder {config.ssl}",
        "max_upload": str(MAX_UPLOAD),
        "endings": ",".join(AUDIO_EXTENSIONS),
        "warning": f"Warning: {judge.warning}." if judge.warning else "",
    }.items():
        page = page.replace("{{" + name + "}}", html.escape(value))

    def its_own(tag):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    # With this header a browser runs only the page's own script and contacts no other host.
    policy = (
        f"default-src 'none'; script-src {its_own('script')}; style-src {its_own('style')}; connect-src 'self'; "
        "img-src data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
    headers.append((b"content-security-policy", policy.encode()))

    async def show_page(request):
        return HTMLResponse(page)

    async def judge_upload(request):
        _check_sender(request)
        try:
            uploads.acquire_nowait()
        except anyio.WouldBlock:
            why = f"{UPLOADS} recordings are being judged already; try again in a moment"
            raise HTTPException(503, why, {"Retry-After": "10"}) from None
        try:
            with _open_upload() as (file, path):
                await _receive(request, file, stopped)
                return await _judge_while_there(request, path)
        except ClientDisconnect:
            return Response()  # the visitor has left
        finally:
            uploads.release()

    async def _judge_while_there(request, path):
        name = _display_name(request.query_params.get("name", ""))
        left = threading.Event()
        with anyio.CancelScope() as scope:  # cancels the wait for a free worker at once; a running worker is awaited

            async def wait_for_leaving():
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                left.set()
                scope.cancel()

            leaving = asyncio.ensure_future(wait_for_leaving())
            try:
                narrow = request.query_params.get("narrow") == "1"
                status, content = await anyio.to_thread.run_sync(
                    answer, judge, path, name, lambda: left.is_set() or stopped(), narrow, limiter=workers
                )
                return _json(status, content)
            finally:
                leaving.cancel()
        raise ClientDisconnect

    async def refuse(request, error):
        return _json(error.status_code, {"error": error.detail}, error.headers)

    routes = [Route("/", show_page, methods=["GET"]), Route("/judge", judge_upload, methods=["POST"])]
    app = Starlette(routes=routes, exception_handlers={HTTPException: refuse})
    app.router.redirect_slashes = False

    async def guarded(scope, receive, send):
        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        if hosts and _host_name(scope) not in hosts:
            refusal = _json(400, {"error": f"expected one of the hosts {', '.join(sorted(hosts))}"})
            return await refusal(scope, receive, send_with_headers)
        await app(scope, receive, send_with_headers)

    return guarded


def _host_name(scope):
    """Host of a request without its port; None if there is none or more than one."""
    try:
        (host,) = [value.decode("latin-1") for key, value in scope["headers"] if key == b"host"]
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def serve(judge: Judge, host: str, port: int) -> None:
    """Serve the page until a signal ends it. Raises UserError if it cannot listen on the address."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"--host {host} --port {port}: cannot listen on it: {error}") from error
    address, port = listener.getsockname()[:2]
    private = ipaddress.ip_address(address).is_loopback
    hosts = {"localhost", "127.0.0.1", "::1", address, host.lower()} if private else None
    config = uvicorn.Config(
        _build_app(judge, hosts, lambda: server.should_exit),
        log_level="warning",
        http="h11",
        ws="none",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    print(f"page: http://{f'[{address}]' if ':' in address else address}:{port}/ (Ctrl-C ends it)", flush=True)
    if not private:
        print("page: warning: other machines can reach it without a password", flush=True)
    hung_up = threading.Event()

    def hang_up(number, frame):
        server.should_exit = True
        hung_up.set()

    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup; SIGTERM and Ctrl-C are uvicorn's own
        signal.signal(signal.SIGHUP, hang_up)
    server.run(sockets=[listener])
    if hung_up.is_set():
        raise Stopped(signal.SIGHUP)
