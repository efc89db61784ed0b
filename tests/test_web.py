"""The page of --web in a real browser. Skipped, with the reason printed, where playwright or a browser is missing;
test_page_attacks.py needs neither.

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
from conftest import speech_like

pytest.importorskip("playwright", reason="playwright is not installed (pip install -r requirements.txt)")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if not BROWSER:
    pytest.skip("no Chromium is installed (Debian: apt-get install chromium)", allow_module_level=True)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model(untrained):
    return os.environ.get("SCREENSHOT_MODEL", str(untrained))


@pytest.fixture(scope="module")
def page(model):
    """The page in a headless browser, opened by the command that the README names; and what it asked others for, and
    what the browser complains of.
    """
    from playwright.sync_api import sync_playwright

    command = [sys.executable, str(ROOT / "easy_inference_demo.py"), "--web", "--port", "0", "--model_path", model]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(server.terminate)
        address = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in server.stdout)))[0]
        chromium = stack.enter_context(sync_playwright()).chromium
        microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        flags = ["--no-sandbox", "--disable-dev-shm-usage", *microphone]
        browser = chromium.launch(executable_path=BROWSER, args=flags)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(60000)
        page.elsewhere, page.complaints = [], []
        page.on(
            "request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else page.elsewhere.append(r.url)
        )
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(address)
        yield page
        browser.close()


def judge(page):
    """Ask for the verdict on what is chosen, and return it."""
    page.click("#judge")
    return page.inner_text("#answer .verdict b")


def test_a_file_is_uploaded_and_its_verdict_read_off_the_page(page, model, tmp_path):
    path = os.environ.get("SCREENSHOT_FILE", str(tmp_path / "speech.wav"))
    soundfile.write(tmp_path / "speech.wav", speech_like(np.random.default_rng(0), 9), 16000)
    assert page.is_disabled("#judge")
    page.set_input_files("#file", path)
    verdict = judge(page)
    command = [sys.executable, str(ROOT / "easy_inference_demo.py"), "--model_path", model, "--file_to_test", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(f"^{verdict}: ", text, re.M)
    score = float(re.search(r"^score: (\S+)$", text, re.M)[1])
    assert f"{score:.4f} (higher is more genuine)" in page.inner_text("#answer")
    image = page.locator("#answer img")
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [1000, 640]
    if "SCREENSHOT" in os.environ:
        page.screenshot(path=os.environ["SCREENSHOT"], full_page=True)
    audio = page.locator("#player")  # it can be listened to
    audio.evaluate("audio => new Promise(done => audio.readyState ? done() : (audio.onloadedmetadata = done))")
    assert abs(audio.evaluate("audio => audio.duration") - 9) < 0.1 or "SCREENSHOT_FILE" in os.environ
    for width in (390, 1200):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert image.bounding_box()["width"] > 350
    assert page.complaints == []


def test_a_recording_of_the_microphone_is_judged(page):
    page.click("#record")
    page.wait_for_selector("#record.on")
    page.wait_for_timeout(1500)
    page.click("#record")
    page.locator("#chosen", has_text="recording.").wait_for()
    assert page.inner_text("#answer") == "The verdict appears here."
    assert page.is_visible("#player")
    assert judge(page) in ("likely genuine", "likely synthetic")


def test_what_is_no_audio_is_said_on_the_page_and_a_name_is_no_markup(page, tmp_path):
    name = "<img src=x onerror=alert(1)>.wav"
    (tmp_path / name).write_text("no sound")
    page.set_input_files("#file", tmp_path / name)
    assert judge(page) == "cannot be judged"
    assert page.inner_text("#answer .verdict span").startswith(f"{name}: cannot be read as audio")
    assert page.inner_text("#chosen") == name and page.locator("img").count() == 0


def test_too_large_a_file_is_refused_before_it_is_sent(page):
    page.evaluate("choose(new Blob([new Uint8Array(200000001)]), 'large.wav')")
    assert page.is_disabled("#judge") and "at most 200 MB" in page.inner_text("#status")


def test_the_page_asks_nobody_else(page):
    assert page.elsewhere == []
    assert page.evaluate("fetch('http://127.0.0.1:1/').then(() => 'asked', error => error.name)") == "TypeError"
    assert "Content Security Policy" in page.complaints[-1]
