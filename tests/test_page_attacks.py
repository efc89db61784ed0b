"""The page of --web, attacked over sockets as it really runs: it gives away nothing, keeps nothing, asks nobody."""

import concurrent.futures
import contextlib
import http.client
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import speech_like

from common.console import UserError
from inference import judging

pytest.importorskip("starlette", reason="starlette is not installed (pip install -r requirements-web.txt)")
from starlette.exceptions import HTTPException  # noqa: E402

from inference import web_page  # noqa: E402

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
OCTETS = {"Content-Type": "application/octet-stream"}
# The command itself, with limits that a test reaches, and with a file whose audio never ends.
COMMAND = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import numpy, easy_inference_demo
from common import console
from inference import doubts, judging, web_page
doubts.speech_model = lambda: lambda frames, state: (numpy.ones(len(frames)), state)
web_page.MAX_UPLOAD, web_page.PATIENCE = 2_000_000, 5
audio_blocks = judging.audio_blocks
def audio_blocks_or_endless(path):
    while open(path, "rb").read(7) == b"ENDLESS":
        time.sleep(0.02)
        yield numpy.zeros(16, numpy.float32)
    yield from audio_blocks(path)
judging.audio_blocks = audio_blocks_or_endless
console.run(easy_inference_demo.main)
"""


class RunningPage:
    def __init__(self, model, folder, host):
        flags = ["--web", "--port", "0", "--host", host, "--model_path", str(model)]
        self.folder, self.stderr = folder / "kept", folder / "stderr"
        self.folder.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *flags],
            env={**os.environ, "TMPDIR": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=open(self.stderr, "w"),
            text=True,
        )

    def wait_until_open(self):
        addresses = (re.search(r"http://(.+):(\d+)/", line) for line in self.process.stdout)
        self.host, self.port = next(filter(None, addresses)).groups()
        return self

    def connect(self):
        return socket.create_connection((self.host.strip("[]"), int(self.port)), timeout=600)

    def request(self, method, path, body=None, headers=None, chunked=False):
        """(status, text, headers) of a request that is sent as it stands."""
        connection = http.client.HTTPConnection(self.host.strip("[]"), int(self.port), timeout=600)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())

    def judge(self, body, name="x.wav", **headers):
        status, text, _ = self.request("POST", f"/judge?name={name}", body, OCTETS | headers)
        return status, json.loads(text)

    def begin(self, sent=b"", length=1_000_000):
        """A connection whose upload has begun."""
        connection = self.connect()
        head = f"POST /judge HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Length: {length}\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + sent)
        return connection

    def stored(self):
        """All that it keeps: in its folder, and in files without a name."""
        found = [str(path) for path in self.folder.rglob("*")]
        folder = f"/proc/{self.process.pid}/fd"
        for number in os.listdir(folder) if os.path.isdir(folder) else []:
            with contextlib.suppress(OSError):
                target = os.readlink(f"{folder}/{number}")
                found += [target] * target.startswith(str(self.folder))
        return set(found)  # a file that is being read is open twice

    def wait_until_stored(self, n):
        for _ in range(6000):
            if len(self.stored()) == n:
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.stored()}: expected {n}")


@pytest.fixture(scope="module")
def pages(untrained, tmp_path_factory):
    """Four running pages; the last, where there is IPv6, listens there."""
    hosts = ["127.0.0.1", "localhost", "127.0.0.1", "::1" if _has_ipv6() else "127.0.0.1"]
    running = [RunningPage(untrained, tmp_path_factory.mktemp("page"), host) for host in hosts]
    yield [page.wait_until_open() for page in running]
    for page in running:
        page.process.kill()
        page.process.communicate()


@pytest.fixture
def page(pages):
    yield pages[0]
    pages[0].wait_until_stored(0)  # whatever was sent


def _has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    soundfile.write(path, speech_like(np.random.default_rng(0), 9), 16000)
    return path


@pytest.fixture
def elsewhere():
    """Another server: its address, and all that it is asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/speech.wav", asked
        server.shutdown()


def test_a_recording_is_judged_and_gone(page, speech):
    status, reply = page.judge(speech.read_bytes(), "speech.wav")
    assert status == 200 and reply["verdict"] in ("likely genuine", "likely synthetic")
    assert reply["rows"][0] == ["file", "speech.wav, 9.00 s"]
    assert reply["picture"].startswith("data:image/png;base64,iVBOR")
    assert not page.stored()


def test_paths_and_addresses_are_nothing_to_it(page, speech, elsewhere):
    address, asked = elsewhere
    for place in (str(speech), f"file://{speech}", address, "/etc/passwd"):
        body = json.dumps({"path": place, "url": place, "meta": {"_type": "gradio.FileData"}, "data": [place]})
        assert page.request("POST", "/judge", body, {"Content-Type": "application/json"})[0] == 415
        for text in (body, place):
            status, reply = page.judge(text.encode())
            assert status == 422 and "cannot be read as audio" in reply["error"] and "/proc" not in reply["error"]
        for query in (f"/?path={place}", f"/?file={place}", f"/?url={place}"):
            assert page.request("GET", query)[1] == page.request("GET", "/")[1]
    assert not asked


def test_a_list_of_files_is_no_recording(page, speech, elsewhere):
    """Formats that refer to other files: reading them would be reading for the visitor, here or elsewhere."""
    address, asked = elsewhere
    for place in (str(speech), f"file:{speech}", address):
        lists = [
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{place}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{place}'\n",
            f"[playlist]\nFile1={place}\n",
            "<?xml version='1.0'?><MPD><Period><AdaptationSet mimeType='audio/wav'>"
            f"<Representation id='0' bandwidth='1'><BaseURL>{place}</BaseURL></Representation>"
            "</AdaptationSet></Period></MPD>",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
        ]
        for text in lists:
            status, reply = page.judge(text.encode(), "list.m3u8")
            assert (status, list(reply)) == (422, ["error"]), text
    assert not asked


def test_there_is_one_page_and_one_route(page):
    for method, path, status in [
        *(("GET", path, 404) for path in ("/config", "/info", "/gradio_api/info", "/docs", "/openapi.json", "/file")),
        *(("GET", path, 404) for path in ("/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/web_page.html")),
        *(("GET", path, 404) for path in ("/../../etc/passwd", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd")),
        *(("GET", path, 404) for path in ("/..%2f..%2fetc%2fpasswd", "/static/../web_demo.py", "/judge/", "/judge/x")),
        *(("POST", path, 404) for path in ("/gradio_api/upload", "/upload", "/gradio_api/call/judge")),
        *((method, "/judge", 405) for method in ("GET", "HEAD", "PUT", "OPTIONS", "DELETE")),
        ("POST", "/", 405),
        ("HEAD", "/", 200),
    ]:
        found, text, headers = page.request(method, path)
        assert found == status, (method, path)
        assert "root:" not in text
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy


def test_a_name_is_a_label_and_no_path(page):
    for name, shown in {
        "../../../etc/x.wav": "x.wav",
        "..%2F..%2Fx.wav": "x.wav",
        "C:%5Cx.wav": "x.wav",
        "%00a%0Ab%E2%80%AE.wav": "ab.wav",
        "%20": "recording",
        "x" * 300: "x" * 100,
        "<img%20src=x>": "<img src=x>",
    }.items():
        status, text, headers = page.request("POST", f"/judge?name={name}", b"no sound", OCTETS)
        assert status == 422 and json.loads(text)["error"].startswith(f"{shown}: cannot be read"), text
        assert headers["content-type"] == "application/json" and "<" not in text


def test_several_files_in_a_request_are_refused(page):
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n' + bytes(400_000)
    for n in (1, 4):
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        status, text, _ = page.request("POST", "/judge", n * (part + b"\r\n") + b"--x--\r\n", headers)
        assert status == 415 and "expected one file" in text


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null", "http://127.0.0.1:1", "https://{own}", "x"])
def test_a_request_of_another_site_is_refused_unread(page, origin):
    headers = OCTETS | {"Origin": origin.format(own=f"{page.host}:{page.port}"), "Content-Length": "1000000"}
    status, text, _ = page.request("POST", "/judge", None, headers)  # answered though nothing came yet
    assert status == 403 and "another site" in text


def test_a_browser_s_word_on_who_asks_is_taken(page, speech):
    for site in ("cross-site", "same-site"):
        assert page.judge(b"x", **{"Sec-Fetch-Site": site})[0] == 403
    own = f"http://{page.host}:{page.port}"
    assert page.judge(speech.read_bytes(), **{"Sec-Fetch-Site": "same-origin", "Origin": own})[0] == 200
    for host in ("elsewhere.example", "127.0.0.1.elsewhere.example", f"elsewhere.example:{page.port}", "[::1", ""):
        for method, path in (("GET", "/"), ("POST", "/judge")):
            assert page.request(method, path, headers=OCTETS | {"Host": host})[0] == 400
    for host in ("localhost", f"localhost:{page.port}", f"LOCALHOST:{page.port}", "[::1]:80"):
        assert page.request("GET", "/", headers={"Host": host})[0] == 200


def test_the_size_of_a_request_is_limited(page):
    def parts(n):
        for _ in range(n):
            yield bytes(100_000)

    assert page.judge(bytes(2_000_000))[0] == 422
    assert page.judge(bytes(2_000_001))[0] == 413
    for n, expected in ((20, 422), (21, 413), (60, 413)):
        headers = OCTETS | {"Transfer-Encoding": "chunked"}
        status, text, _ = page.request("POST", "/judge", parts(n), headers, chunked=True)
        assert status == expected
        assert status == 422 or "at most 2 MB" in text
    with page.begin(bytes(100_000), length=10) as connection:  # more than was said, which is the next request then
        assert connection.recv(100).startswith(b"HTTP/1.1 422")


def test_the_slow_do_not_keep_others_waiting(page, speech):
    with contextlib.ExitStack() as stack:  # uploads of which a byte comes now and then
        slow = [stack.enter_context(page.begin(b"x")) for _ in range(web_page.UPLOADS)]
        for _ in range(100):  # until all of them have come
            status, text, headers = page.request("POST", "/judge", b"x", OCTETS)
            if status == 503:
                break
        assert (status, headers["retry-after"]) == (503, "10") and "try again" in text
        slow.pop().close()
        page.wait_until_stored(len(slow))
        assert page.judge(speech.read_bytes())[0] == 200
        slow[0].settimeout(0.2)
        answer = b""
        for _ in range(300):
            with contextlib.suppress(TimeoutError, BrokenPipeError):
                slow[0].sendall(b"x")
                answer = slow[0].recv(100)
                break
        assert answer.startswith(b"HTTP/1.1 408")
    with contextlib.ExitStack() as stack:  # and recordings that do not end
        for _ in range(web_page.WORKERS - 1):
            stack.enter_context(page.begin(b"ENDLESS", length=7))
        page.wait_until_stored(web_page.WORKERS - 1)
        assert page.judge(speech.read_bytes())[0] == 200
        assert len(page.stored()) == web_page.WORKERS - 1
    page.wait_until_stored(0)  # they left


def test_whoever_leaves_midway_leaves_nothing(page):
    with page.begin(bytes(500_000)):
        page.wait_until_stored(1)
    page.wait_until_stored(0)


def test_visitors_at_once_get_their_own_answers(page, tmp_path):
    files = {}
    for i in range(web_page.WORKERS):
        soundfile.write(tmp_path / "x.wav", speech_like(np.random.default_rng(i), 1 + 3 * i), 16000)
        files[f"{i}.wav"] = (tmp_path / "x.wav").read_bytes()

    def scored(name):
        return [row for row in page.judge(files[name], name)[1]["rows"] if row[0] in ("file", "score", "windows")]

    alone = [scored(name) for name in files]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert list(pool.map(scored, files)) == alone
    assert len({str(rows) for rows in alone}) == len(files)


def test_audio_without_end_and_judging_that_takes_too_long_end(untrained, monkeypatch, tmp_path):
    judge = judging.Judge(untrained, torch.device("cpu"))
    path = tmp_path / "x"
    path.write_bytes(b"x")

    def blocks(seconds):
        while True:
            yield np.zeros(round(16000 * seconds), np.float32)

    monkeypatch.setattr(judging, "audio_blocks", lambda path: blocks(60))
    with pytest.raises(HTTPException, match="413: x: .*3 hours"):
        web_page.answer(judge, str(path), "x")
    monkeypatch.setattr(judging, "audio_blocks", lambda path: blocks(0.1))
    now = iter(range(10**6))
    monkeypatch.setattr(web_page, "time", type("Clock", (), {"monotonic": lambda: next(now)}))
    with pytest.raises(HTTPException, match="503: x: .* s.* s "):
        web_page.answer(judge, str(path), "x")
    left = iter([False, False, True])
    with pytest.raises(HTTPException, match="503: "):
        web_page.answer(judge, str(path), "x", lambda: next(left))


def test_nothing_outlives_the_program(pages):
    ends = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
    for page, (end, status) in zip(pages, ends):
        with page.begin(bytes(500_000)) as upload, page.begin(b"ENDLESS", length=7) as judged:
            page.wait_until_stored(2)
            page.process.send_signal(end)
            assert page.process.wait(60) == status
            if end != signal.SIGKILL:
                for connection in (upload, judged):
                    assert connection.recv(100).startswith(b"HTTP/1.1 503")
            assert list(page.folder.rglob("*")) == []
            assert "Traceback" not in page.stderr.read_text()


def test_the_address_is_printed_as_a_browser_takes_it(pages, untrained, monkeypatch, capsys):
    monkeypatch.setattr(web_page.uvicorn.Server, "run", lambda server, sockets: sockets[0].close())
    judge = judging.Judge(untrained, torch.device("cpu"))
    assert pages[1].host == "127.0.0.1" and pages[3].host in ("127.0.0.1", "[::1]")
    web_page.serve(judge, "0.0.0.0", 0)
    assert "http://0.0.0.0:" in (said := capsys.readouterr().out) and "other machines can reach it" in said
    web_page.serve(judge, "127.0.0.1", 0)
    assert "other machines" not in capsys.readouterr().out
    for host in ("::zz", "a..b"):
        with pytest.raises(UserError, match=f"--host {host} --port 0: "):
            web_page.serve(judge, host, 0)


def test_web_mistakes(untrained, fails):
    import easy_inference_demo

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ["--web", "--model_path", str(untrained), "--port"]
        fails(easy_inference_demo.main, [*flags, port], f"--port {port}")
        fails(easy_inference_demo.main, [*flags, "99999"], "--port", "found 99999")
