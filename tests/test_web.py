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
from conftest import encode, speech_like

pytest.importorskip("playwright", reason="playwright is not installed (pip install -r requirements.txt)")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if not BROWSER:
    pytest.skip("no Chromium is installed (Debian: apt-get install chromium)", allow_module_level=True)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


# The command itself, but that everything is speech to it: see conftest.everything_is_speech.
DEMO = [
    *(sys.executable, "-c"),
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); import numpy, easy_inference_demo; from common import console; "
    "from inference import doubts; doubts.speech_model = lambda: lambda x, state: (numpy.ones(len(x)), state); "
    "console.run(easy_inference_demo.main)",
]


@pytest.fixture(scope="module")
def model(untrained):
    return os.environ.get("SCREENSHOT_MODEL", str(untrained))


@pytest.fixture(scope="module")
def page(model):
    """The page in a headless browser, opened by the command that the README names; and what it asked others for, and
    what the browser complains of.
    """
    from playwright.sync_api import sync_playwright

    command = [*DEMO, "--web", "--port", "0", "--model_path", model]
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
    """Ask for the verdict on what is chosen, and return it once all of it is judged."""
    page.click("#judge")
    page.locator("#judge:enabled").wait_for()
    return page.inner_text("#answer .verdict b")


def playing(page):
    """(seconds, whether it plays) of the recording that can be listened to."""
    return page.locator("#player").evaluate("audio => [audio.currentTime, !audio.paused]")


def test_a_file_is_uploaded_and_its_verdict_read_off_the_page(page, model, tmp_path):
    path = os.environ.get("SCREENSHOT_FILE", str(tmp_path / "speech.wav"))
    soundfile.write(tmp_path / "speech.wav", speech_like(np.random.default_rng(0), 9), 16000)
    assert page.is_disabled("#judge")
    page.set_input_files("#file", path)
    verdict = judge(page)
    command = [*DEMO, "--model_path", model, "--file_to_test", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.startswith(f"{verdict}: {path}, ")
    assert text.splitlines()[1] == page.inner_text("#answer .verdict p >> nth=0")
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


def test_a_video_s_stretches_play_from_where_they_are(page, tmp_path):
    rng = np.random.default_rng(1)
    x = np.concatenate([speech_like(rng, 6), rng.uniform(-0.3, 0.3, 6 * 16000), speech_like(rng, 6)])
    page.set_input_files("#file", encode(tmp_path / "talk.mp4", x, "aac", "mp4", video=True))
    assert judge(page).startswith(("likely ", "mostly "))
    scores = page.locator("#answer ol button")
    if not scores.count():  # weights by chance: nothing is suspicious, or everything
        pytest.skip("the untrained detector finds nothing suspicious")
    starts = [text.split(" to ")[0].removeprefix("▶ ") for text in scores.all_inner_texts()]
    scores.last.click()
    page.wait_for_timeout(500)
    at, plays = playing(page)
    minutes, seconds = map(float, starts[-1].split(":"))
    assert plays and 0 < at - 60 * minutes - seconds < 2
    page.locator("#player").evaluate("audio => audio.pause()")


def test_several_files_give_a_table_and_each_its_answer(page, tmp_path):
    for i in range(2):
        soundfile.write(tmp_path / f"{i}.wav", speech_like(np.random.default_rng(i), 3 + i), 16000)
    (tmp_path / "notes.txt").write_text("no sound")
    page.set_input_files("#file", [tmp_path / name for name in ("0.wav", "notes.txt", "1.wav")])
    assert page.inner_text("#chosen") == "3 recordings"
    page.click("#judge")
    page.locator("#judge:enabled").wait_for()
    rows = [row.inner_text().split("\t") for row in page.locator("#answer tr").all()]
    assert [row[0] for row in rows] == ["recording", "0.wav", "notes.txt", "1.wav"]
    assert [row[-1] for row in rows[1:]] == ["3.0 s", "", "4.0 s"] and rows[2][1] == "cannot be judged"
    assert all(rows[i][1] in ("likely genuine", "likely synthetic") for i in (1, 3))
    assert page.inner_text("#status").startswith("2 judged, 1 not")
    page.click("#answer table button:text('notes.txt')")
    assert page.inner_text("#answer .verdict p").startswith("notes.txt: cannot be read as audio")
    page.click("#answer table button:text('1.wav')")
    assert "1.wav, 4.00 s" in page.inner_text("#answer dl") and page.locator("#answer img").count() == 1


def test_on_a_telephone_the_picture_is_drawn_for_its_width(page, tmp_path):
    soundfile.write(tmp_path / "speech.wav", speech_like(np.random.default_rng(0), 9), 16000)
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    assert page.is_disabled("#judge")
    page.set_input_files("#file", tmp_path / "speech.wav")
    judge(page)
    image = page.locator("#answer img")
    width, height = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert width < height and page.evaluate("document.documentElement.scrollWidth") <= 390
    # Letters of 10 points, drawn at 150 to the inch, are at least 11 pixels high where they are shown.
    assert 10 / 72 * 150 * image.bounding_box()["width"] / width > 11
    page.set_viewport_size({"width": 1200, "height": 900})
    page.reload()


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
    assert page.inner_text("#answer .verdict p").startswith(f"{name}: cannot be read as audio")
    assert page.inner_text("#chosen") == name and page.locator("img").count() == 0


def test_too_large_a_file_is_refused_before_it_is_sent(page):
    page.evaluate("choose([new File([new Uint8Array(200000001)], 'large.wav')])")
    assert page.is_disabled("#judge") and "at most 200 MB" in page.inner_text("#status")


def test_the_page_asks_nobody_else(page):
    assert page.elsewhere == []
    assert page.evaluate("fetch('http://127.0.0.1:1/').then(() => 'asked', error => error.name)") == "TypeError"
    assert "Content Security Policy" in page.complaints[-1]
