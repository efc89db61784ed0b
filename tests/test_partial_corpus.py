"""tools/make_demo_corpus.py --partial: what its labels say is what its samples are."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from conftest import ROOT, speech_like
from scipy.signal import correlate, resample_poly

import corpora
from corpora import BONAFIDE, SPOOF
from corpora.frame_scores import read_frame_scores
from corpora.segments import find_segments, read_segments
from tools import demo_probes, long_recordings, make_demo_corpus, partial_corpus, splicing
from tools.demo_attacks import ATTACKS

pytestmark = pytest.mark.slow
SIZES = [20, 20, 20]
SPLITS = ["train", "dev", "eval"]
ONE = {"A05": ATTACKS["A05"]}  # the fastest, and it needs no package
COMMAND = """
import sys
from tools import make_demo_corpus
make_demo_corpus.ATTACKS = {"A05": make_demo_corpus.ATTACKS["A05"]}
make_demo_corpus.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def flags(recordings):
    return ["--partial", "--speech_dir", str(recordings), "--sizes", *map(str, SIZES)]


@pytest.fixture(scope="module")
def partial(tmp_path_factory, flags):
    folder = tmp_path_factory.mktemp("partial") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_demo_corpus, "ATTACKS", ONE)
        make_demo_corpus.main(["--out", str(folder), *flags, "--jobs", "2"])
    return folder


@pytest.fixture(scope="module")
def utterances(recordings):
    speakers = make_demo_corpus.own_recordings(recordings, np.random.default_rng(1))
    return partial_corpus.plan(speakers, ONE, dict(zip(SPLITS, SIZES)), 1)


def samples_of(seconds):
    n = float(seconds) * 16000
    assert abs(n - round(n)) < 1e-6  # a time that a label tells is that of a sample
    return round(n)


def rttm(path):
    """{utt_id: [(first sample, last sample + 1, label)]}."""
    spans = {}
    for line in path.read_text().splitlines():
        kind, utt_id, channel, start, duration, *blanks, label, _, _ = line.split()
        assert (kind, channel, blanks) == ("SPEAKER", "1", ["<NA>", "<NA>"])
        spans.setdefault(utt_id, []).append((samples_of(start), samples_of(start) + samples_of(duration), label))
    return spans


def splices_of(path):
    """{utt_id: [(first sample, last sample + 1, label, material)]}."""
    splices = {}
    with open(path) as file:
        for row in csv.DictReader(file):
            span = (samples_of(row["start"]), samples_of(row["end"]), row["label"], row["material"])
            splices.setdefault(row["utt_id"], []).append(span)
    return splices


def test_the_corpus_is_laid_out_as_partialspoof(partial):
    speakers = []
    for split in SPLITS:
        protocol, audio = corpora.official_files("PartialSpoof", split, partial)
        table = corpora.read_table(protocol)
        trials = corpora.locate_audio(corpora.read_protocol(protocol), audio)
        assert table.corpus == "PartialSpoof" and len(trials) == 20 == len(os.listdir(partial / split / "con_wav"))
        assert {(trial.label, trial.attack) for trial in trials} == {(BONAFIDE, "-"), (SPOOF, "CON")}
        assert sum(trial.label == SPOOF for trial in trials) == 10
        speakers.append({trial.speaker for trial in trials})
        labels = partial / "segment_labels" / f"{split}.rttm"
        assert find_segments(protocol) == labels
        spans = rttm(labels)
        texts = {line.split()[0]: line.split()[1:] for line in open(partial / "segment_labels" / f"{split}.txt")}
        assert list(texts) == list(spans) == [trial.utt_id for trial in trials]
        for trial in trials:
            info = soundfile.info(trial.path)
            assert (info.samplerate, info.channels, info.format) == (16000, 1, "FLAC") and info.duration <= 12
            pieces = spans[trial.utt_id]
            assert pieces[0][0] == 0 and pieces[-1][1] == info.frames  # all of it, without gap or overlap
            assert all(one[1] == other[0] and one[2] != other[2] for one, other in zip(pieces, pieces[1:]))
            key = "spoof" if trial.label == SPOOF else "bonafide"
            assert any(label == "spoof" for *_, label in pieces) == (key == "spoof")
            duration, said, *words = texts[trial.utt_id]
            assert (samples_of(duration), said) == (info.frames, key)
            split_words = [word.split("-") for word in words]
            assert [(samples_of(a), samples_of(b), label) for a, b, label in split_words] == pieces
    assert not set.intersection(*speakers[:2]) and not set.intersection(*speakers[1:])
    assert "discontinuities in units of 160 ms" in (partial / "README.md").read_text()
    assert len(corpora.read_scores(partial / "probe_discontinuities.txt")) == 20
    for utt_id, frames in read_frame_scores(partial / "probe_discontinuities_frames.txt").items():
        assert frames.step == 0.16 and len(frames.scores) == int(spans[utt_id][-1][1] / 16000 / 0.16 + 0.5)
    forms = [read_segments(partial / "segment_labels" / f"eval.{form}") for form in ("rttm", "txt")]
    assert forms[0] == forms[1]


def test_the_samples_change_where_the_labels_say_and_nowhere_else(partial, utterances):
    splices = splices_of(partial / "splices.csv")
    materials = set()
    for utterance in utterances[::4]:
        _, genuine, _ = partial_corpus.make(utterance, {})
        x, _ = soundfile.read(partial_corpus.audio_path(partial, utterance), dtype="int16")
        differs = x != genuine
        inside = np.zeros(len(x), bool)
        for start, end, label, material in splices[utterance.utt_id]:
            inside[start:end] = True
            assert 0.2 <= (end - start) / 16000 <= 2 and min(start, len(x) - end) >= 0.24 * 16000
            places = np.flatnonzero(differs[start:end])
            assert places[0] < 160 and places[-1] >= end - start - 160 and len(places) > 0.4 * (end - start)
            level = [np.sqrt(np.mean(part[start:end].astype(float) ** 2)) for part in (x, genuine)]
            assert 0.8 < level[0] / level[1] < 1.25  # but for the fades, the same
            assert (label == "spoof") == (material == utterance.attack)
            assert label == "spoof" or material in ("shifted", "moved")
            materials.add(material)
        assert not (differs & ~inside).any()
        spoofed = [span[:2] for span in splices[utterance.utt_id] if span[2] == "spoof"]
        labels = rttm(partial / "segment_labels" / f"{utterance.split}.rttm")[utterance.utt_id]
        assert [span[:2] for span in labels if span[2] == "spoof"] == spoofed
        assert bool(spoofed) == (utterance.attack != "-")
    assert materials >= {"shifted", "moved", "A05"}


def test_genuine_speech_is_the_recordings(utterances):
    utterance = utterances[0]
    _, genuine, _ = partial_corpus.make(utterance, {})
    genuine = genuine / 32767
    for path in utterance.sources:
        x, rate = soundfile.read(path)
        x = resample_poly(x, 16000, rate)[4000:-4000]  # its middle, which no fade reaches
        fit = correlate(genuine, x, "valid")
        place = np.argmax(np.abs(fit))
        norm = np.linalg.norm(x) * np.linalg.norm(genuine[place : place + len(x)])
        assert fit[place] / norm > 0.8  # the rest was outside of the telephone band


@pytest.mark.parametrize("delay", [-150, 0, 37, 300])
def test_a_copy_is_moved_to_its_original(delay):
    x = speech_like(np.random.default_rng(0), 2.0, 8000)
    other_phases = x * np.sign(np.sin(np.arange(len(x)) * 0.3))
    late = np.pad(other_phases, (max(delay, 0), 0))[max(-delay, 0) :]
    y = splicing.aligned(late, x)
    assert len(y) == len(x)
    fits = [np.sum(y[500 + lag : len(x) - 500 + lag] * other_phases[500:-500]) for lag in range(-100, 101)]
    assert abs(np.argmax(fits) - 100) <= 4  # half a millisecond


def test_a_cross_fade_lies_inside_and_keeps_the_level():
    rng = np.random.default_rng(0)
    base, other = rng.standard_normal(16000), 3 * rng.standard_normal(16000)
    x = splicing.cross_fade(base, other, 4000, 12000)
    assert np.array_equal(x[:4000], base[:4000]) and np.array_equal(x[12000:], base[12000:])
    assert np.all(x[4000:12000] != base[4000:12000])
    middle = slice(4320, 11680)
    assert np.std(x[middle]) == pytest.approx(1, rel=0.06) and np.corrcoef(x[middle], other[middle])[0, 1] > 0.999
    x = splicing.cross_fade(np.ones(16000), -np.ones(16000), 4000, 12000)
    assert np.abs(np.diff(x)).max() < 0.011 and x[4000] > 0.9999 and x[11999] > 0.9999  # two halves of a cosine
    assert np.all(x[middle] == -1) and np.all(np.diff(x[4000:4320]) < 0)


def test_the_probe_finds_cuts_that_are_hard_and_not_those_that_are_faded():
    rng = np.random.default_rng(0)
    greatest = {"none": [], "hard": [], "faded": []}
    for _ in range(8):
        x = partial_corpus.to_rate_out(splicing.band(speech_like(rng, 4.0, 8000)))
        x /= 20 * np.std(x)
        other = np.roll(x, int(rng.integers(100, 300)))
        start, end = 16000, 16000 + 8 * int(rng.integers(1000, 4000))
        hard = np.concatenate([x[:start], other[start:end], x[end:]])
        faded = splicing.cross_fade(x, other, start, end)
        for name, y in (("none", x), ("hard", hard), ("faded", faded)):
            greatest[name].append(demo_probes.discontinuity_features(y + 1e-4 * rng.standard_normal(len(y)), 16000))
    means = {name: np.mean(values, axis=0) for name, values in greatest.items()}
    assert np.all(means["hard"][:2] > means["none"][:2] + 2.5)  # the jump, and what it adds above the telephone band
    assert np.all(np.abs(means["faded"] - means["none"])[:2] < 0.5)


def test_a_corpus_that_was_killed_and_begun_again_is_the_same(tmp_path, partial, flags, output, monkeypatch):
    out = tmp_path / "corpus"
    command = ["--out", str(out), *flags, "--jobs", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *command], cwd=ROOT, start_new_session=True, **quiet)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("corpus.building/train/con_wav/*.flac")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists()
    assert list(tmp_path.glob("corpus.building/train/con_wav/*.flac"))

    monkeypatch.setattr(make_demo_corpus, "ATTACKS", ONE)
    output(make_demo_corpus.main, command)
    files = [
        sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) for folder in (partial, out)
    ]
    assert files[0] == files[1]
    assert all((partial / path).read_bytes() == (out / path).read_bytes() for path in files[0])
    assert "already built" in output(make_demo_corpus.main, command)


def test_a_long_file_is_spoofed_where_its_labels_say(tmp_path, recordings, monkeypatch):
    monkeypatch.setattr(
        splicing.Prompt, "copy", lambda self, *_: np.zeros_like(self.samples)
    )  # to be seen in the level
    paths = sorted(str(path) for path in recordings.rglob("*.wav"))
    monkeypatch.setattr(long_recordings, "PERIOD", 60_000)
    monkeypatch.setattr(long_recordings, "SPOOFED", 12_000)
    length = 120_000
    for name in long_recordings.NAMES:
        _, _, splices = long_recordings.render_long(name, {}, tmp_path, paths, ["A05", "A06"], length, 1)
        x, rate = soundfile.read(tmp_path / f"{name}.flac")
        assert (len(x), rate) == (length * 16, 16000)
        level = 10 * np.log10(np.mean(x.reshape(-1, 16 * 400) ** 2, axis=1) + 1e-12)  # of 400 ms: more than a pause
        assert np.median(level) == pytest.approx(-26, abs=2.5)
        if name == "long_bonafide":
            assert not splices and level.min() > -40
            continue
        assert [splice.material for splice in splices] == ["A05", "A06"]
        for i, splice in enumerate(splices):
            assert 60_000 * i < splice.start < splice.end < 60_000 * (i + 1)
            assert 12_000 <= splice.end - splice.start < 14_500
            inside = x[splice.start * 16 : splice.end * 16]
            before, behind = x[: splice.start * 16][-4800:], x[splice.end * 16 :][:8000]
            assert np.abs(inside).max() < 0.02 and min(np.abs(before).max(), np.abs(behind).max()) > 0.04


def test_mistakes(tmp_path, recordings, capsys):
    with pytest.raises(SystemExit) as ended:
        make_demo_corpus.main(["--out", str(tmp_path / "x"), "--speech_dir", str(recordings), "--long", "2"])
    assert ended.value.code == 2 and "--long: expected --partial" in capsys.readouterr().err
