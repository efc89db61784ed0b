"""What decoders print by themselves becomes one line a file; nobody else's line is lost, and nothing waits for ever."""

import io
import os
import sys
import threading

import av
import numpy as np
import pytest
import soundfile

from common.audio import load_audio
from common.console import UserError, audio_progress
from common.decoder_noise import caught
from common.workers import Workers


@pytest.fixture
def damaged(tmp_path):
    """An MP3 file of full length whose decoder complains."""
    path = tmp_path / "damaged.mp3"
    soundfile.write(path, 0.3 * np.random.default_rng(0).standard_normal(32_000), 16_000)
    content = bytearray(path.read_bytes())
    for start in range(len(content) // 3, len(content) // 2, 700):  # in the side information of some frames
        content[start : start + 60] = bytes(range(60, 120))
    path.write_bytes(content)
    return str(path)


def line_of(path):
    return f"warning: {path}: read despite messages of the MP3 decoder: "


def test_a_damaged_file_that_is_read_has_one_line(damaged, capfd):
    assert 1.8 < len(load_audio(damaged)) / 16_000 < 2.1
    (line,) = capfd.readouterr().err.splitlines()
    assert line_of(damaged) in line and "more lines" in line and "libmpg123/" not in line


def read(path):
    return [load_audio(path)], None


def test_a_process_that_reads_audio_says_it_in_one_line_too(damaged, capfd):
    workers = Workers(read, 1)
    list(workers.results([damaged, damaged]))
    workers.close()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line_of(damaged) in line for line in lines)


def test_a_file_that_cannot_be_read_has_its_error_alone(tmp_path, damaged, capfd):
    with open(damaged, "rb+") as file:
        file.truncate(os.path.getsize(damaged) // 2)
    with pytest.raises(UserError, match="truncated"):
        load_audio(damaged)
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 1024)).astype(np.float32)
        for i in [*range(60), None]:
            frame = None
            if i is not None:
                frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
                frame.rate, frame.pts = 16_000, 1024 * i
            for packet in stream.encode(frame):
                container.mux(packet)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_audio(str(path))
    assert capfd.readouterr().err == ""


def test_the_lines_of_other_threads_and_of_other_code_are_all_printed(damaged, capfd):
    done = threading.Event()

    def talk():
        for i in range(300):
            sys.stderr.write(f"mine {i}\n")  # print() would write the line end apart, and a decoder's line between
            os.write(2, f"C code {i}\n".encode())
        done.set()

    thread = threading.Thread(target=talk)
    thread.start()
    while not done.is_set():
        load_audio(damaged)
    thread.join()
    lines = capfd.readouterr().err.splitlines()
    assert [
        line for line in lines if not line.startswith("mine") and "C code" not in line and "warning" not in line
    ] == []
    for own in ("mine", "C code"):
        assert [line for line in lines if line.startswith(own)] == [f"{own} {i}" for i in range(300)]


def test_more_than_a_pipe_holds_is_caught_and_standard_error_comes_back(capfd):
    lines = []
    with pytest.raises(ZeroDivisionError), caught(lines):
        os.write(2, b"Note: resync\n[src/libmpg123/layer3.c:f():1] error: bad\n" * 20_000)
        os.write(2, b"Traceback\n")
        raise ZeroDivisionError
    os.write(2, b"behind it\n")
    assert lines == ["resync", "bad"] * 20_000 and capfd.readouterr().err == "Traceback\nbehind it\n"


@pytest.mark.slow
def test_a_process_forked_by_another_thread_has_its_standard_error(capfd):
    stop = threading.Event()

    def decode():
        while not stop.is_set():
            with caught([]):
                os.write(2, b"Note: noise\n")

    threads = [threading.Thread(target=decode) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        if not (child := os.fork()):
            with caught([]):  # its lock is free
                os.write(2, b"Note: noise\n")
            os.write(2, b"from a child\n")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert capfd.readouterr().err == "from a child\n" * 20


def test_without_a_standard_error_audio_is_read(damaged):
    kept = os.dup(2)
    os.close(2)
    try:
        with caught([]) as nothing:
            assert nothing is None
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@pytest.mark.parametrize(
    "seconds, words", [(600, [" 25 %|", "| 2.5 of 10.0 min of audio ["]), (None, ["2.5 min of audio ["])]
)
def test_a_bar_of_audio_counts_minutes_and_says_a_percentage_of_what_is_known(monkeypatch, seconds, words):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with audio_progress(seconds, "judging") as bar:
        bar.update(2.5)
        bar.refresh()
    shown = terminal.getvalue().split("\r")
    assert any(all(word in text for word in ["judging: ", *words]) for text in shown)
