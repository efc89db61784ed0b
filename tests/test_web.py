"""The page of --web in a real browser. Skipped, with the reason printed, where gradio or a browser is missing.

SCREENSHOT=FILE.png keeps a picture of the page with a verdict on it.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import speech_like

import checkpoint
from model import ModelConfig, build_detector

for module in ("gradio", "playwright"):
    pytest.importorskip(module, reason=f"{module} is not installed (pip install -r requirements-web.txt)")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if not BROWSER:
    pytest.skip("no Chromium is installed (Debian: apt-get install chromium)", allow_module_level=True)

ROOT = Path(__file__).parent.parent
CONFIG = ModelConfig(model_name="wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("web") / "detector.pth"
    torch.manual_seed(0)
    valid = {"eer": 0.1, "threshold": 0.0}
    checkpoint.save_checkpoint(path, CONFIG, build_detector(CONFIG).state_dict(), valid=valid, trained_on="CORPUS")
    return os.environ.get("SCREENSHOT_MODEL", str(path))


@pytest.fixture(scope="module")
def page(model):
    """The page in a headless browser, opened by the command that the README names, and what it asked others for."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, str(ROOT / "easy_inference_demo.py"), "--web", "--port", "0", "--model_path", model]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(server.terminate)
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())[0]
        chromium = stack.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(60000)
        page.elsewhere = []
        page.on(
            "request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else page.elsewhere.append(r.url)
        )
        page.goto(address)
        yield page
        browser.close()


def upload(page, path):
    """Upload a file, ask for the verdict and return it once it is this file's."""
    if page.locator("#audio [aria-label=Clear]").count():
        page.click("#audio [aria-label=Clear]")
    page.set_input_files("#audio input[type=file]", path)
    page.wait_for_selector("#audio [aria-label=Clear]")
    page.click("#judge")
    page.wait_for_function("name => document.querySelector('#answer').innerText.includes(name)", arg=Path(path).name)
    return page.inner_text("#answer .verdict b")


def test_a_file_is_uploaded_and_its_verdict_read_off_the_page(page, model, tmp_path):
    path = os.environ.get("SCREENSHOT_FILE", str(tmp_path / "speech.wav"))
    soundfile.write(tmp_path / "speech.wav", speech_like(np.random.default_rng(0), 9), 16000)
    verdict = upload(page, path)
    command = [sys.executable, str(ROOT / "easy_inference_demo.py"), "--model_path", model, "--file_to_test", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(f"^{verdict}: ", text, re.M)
    score = float(re.search(r"^score: (\S+)$", text, re.M)[1])
    assert f"{score:.4f} (higher is more bona fide)" in page.inner_text("#answer")
    image = page.locator("#answer img")
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [1000, 640]
    if "SCREENSHOT" in os.environ:
        page.screenshot(path=os.environ["SCREENSHOT"], full_page=True)


def test_what_is_no_audio_is_said_on_the_page(page, tmp_path):
    (tmp_path / "notes.wav").write_text("no sound")
    assert upload(page, str(tmp_path / "notes.wav")) == "cannot be judged"
    assert "cannot be read as audio" in page.inner_text("#answer .verdict span")


def test_the_page_asks_nobody_else(page):
    assert page.elsewhere == []
    policy = page.request.get(page.url).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'") and "http" not in policy


def test_another_host_name_and_too_large_a_file_are_refused(model, monkeypatch):
    from starlette.testclient import TestClient

    import web_demo
    from inference import Judge

    monkeypatch.setattr(web_demo, "MAX_UPLOAD", "1mb")
    app = web_demo.build_app(Judge(model, torch.device("cpu")), "127.0.0.1")
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 400
        for size, status in ((2**19, 200), (2**21, 413)):
            answer = client.post("/gradio_api/upload", files={"files": ("a.wav", bytes(size), "audio/wav")})
            assert answer.status_code == status


def test_a_file_name_is_text_and_not_markup(model, tmp_path):
    import web_demo
    from inference import Judge

    (tmp_path / "<img src=x>.wav").write_text("no sound")
    said = web_demo.answer(Judge(model, torch.device("cpu")), str(tmp_path / "<img src=x>.wav"))
    assert "&lt;img src=x&gt;.wav" in said and "<img" not in said


def test_web_mistakes(model, fails):
    import socket

    import easy_inference_demo

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ["--web", "--model_path", model, "--port"]
        fails(easy_inference_demo.main, [*flags, port], f"--port {port}", "in use")
        fails(easy_inference_demo.main, [*flags, "99999"], "--port 99999")
