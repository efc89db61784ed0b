"""The page of `easy_inference_demo.py --web`: drop a file or record, read the verdict, see where in the file.

The page and everything it needs come from this machine, and nothing is sent anywhere else: no fonts, scripts or
usage statistics. What is uploaded lies in a temporary folder, for an hour or until the program ends.
"""

import html
import ipaddress
import os
import socket
import tempfile
from base64 import b64encode
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

from console import UserError
from inference import clock, draw

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ImportError as error:
    raise UserError(f"--web: expected gradio, found none ({error}); pip install -r requirements-web.txt") from error

MAX_UPLOAD = "200mb"  # three hours of mp3 at 128 kbit/s
# A browser that is told so fetches nothing from elsewhere, whatever a page asks for.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; form-action 'self'"
COLOURS = {"bona fide": "#1b7f3b", "spoof": "#c62828", "undecided": "#8a6100", "no verdict": "#555555"}
CSS = """
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; }
.answer { font-size: 15px; line-height: 1.5; }
.answer .verdict { border-radius: 8px; padding: 12px 18px; }
.answer .verdict b { font-size: 26px; display: block; color: white; }
.answer .verdict span { color: white; }
.answer img { width: 100%; border-radius: 6px; margin: 12px 0; background: white; }
.answer dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; }
.answer dt { opacity: 0.7; }
.answer dd { margin: 0; }
.answer .empty { opacity: 0.7; padding: 60px 0; text-align: center; }
footer { display: none !important; }
"""


def answer(judge, path):
    """All that the page says of an uploaded file, as HTML."""
    name = os.path.basename(path)
    (judged,) = judge.judge({name: path}, timeline=True)
    if judged.error:
        return _card("cannot be judged", COLOURS["no verdict"], judged.error)
    verdict = judge.verdict(judged) or "no verdict"
    rows = [
        ("file", f"{name}, {judged.seconds:.2f} s"),
        ("score", "none" if judged.score is None else f"{judged.score:.4f} (higher is more bona fide)"),
        ("probability", judge.about_probability(judged)),
        ("windows", judge.about_windows(judged)),
        *(
            ("suspicious", f"{clock(start)} to {clock(end)}, mean score {score:.4g}")
            for start, end, score in judge.stretches(judged)
        ),
        *(("note", note) for note in judge.notes(judged)),
        ("time", f"{judged.took:.2f} s"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "timeline.png"
        draw(picture, judged, judge)
        data = b64encode(picture.read_bytes()).decode()
    _, _, reason = judge.reading(judged).partition(": ")
    cells = "".join(f"<dt>{key}</dt><dd>{html.escape(text)}</dd>" for key, text in rows if text)
    image = f'<img alt="waveform, spectrogram and score over time" src="data:image/png;base64,{data}">'
    return _card(verdict, COLOURS[verdict], reason, f"{image}<dl>{cells}</dl>")


def _card(title, colour, text, more=""):
    return (
        f'<div class="answer"><div class="verdict" style="background:{colour}"><b>{title}</b>'
        f"<span>{html.escape(text)}</span></div>{more}</div>"
    )


def build_app(judge, host):
    """The page as an ASGI application."""
    config = judge.detector.config
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    empty = '<div class="answer"><div class="empty">The verdict appears here.</div></div>'
    with gr.Blocks(analytics_enabled=False, title="Speech anti-spoofing", delete_cache=(600, 3600)) as blocks:
        gr.Markdown(
            "# Is this speech genuine?\n"
            f"Detector: {config.model_name}, encoder {config.ssl}. Its verdict is a guess from the sound alone "
            "and can be wrong either way."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                audio = gr.Audio(type="filepath", label="Drop a file or record", elem_id="audio", buttons=[])
                button = gr.Button("Judge", variant="primary", elem_id="judge")
                gr.Markdown(
                    "The recording stays on the machine that serves this page, which deletes it within about an hour."
                )
            with gr.Column(scale=5, min_width=420):
                output = gr.HTML(empty, elem_id="answer")
        button.click(
            lambda path: answer(judge, path) if path else empty, audio, output, concurrency_limit=1, api_name="judge"
        )
        audio.clear(lambda: empty, None, output, api_visibility="private")

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def stay_here(request, call_next):
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    if _is_loopback(host):  # a page elsewhere may not reach this one under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        max_file_size=MAX_UPLOAD,
        theme=theme,
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )


def _is_loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(judge, host, port):
    """Serve the page until interrupted. Raises UserError where the address cannot be listened on."""
    try:
        listener = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port}: cannot be listened on: {error}") from error
    with tempfile.TemporaryDirectory(prefix="speech_page_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        app = build_app(judge, host)
        print(f"page: http://{host}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
        if not _is_loopback(host):
            print("page: warning: other machines can reach it, and there is no password", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
