"""The headline of a long recording: the test against chance, the stretches, and that all outputs tell them."""

import csv
import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY, speech_like
from scipy import stats

import checkpoints
import easy_inference_demo
from inference import headline
from inference.judging import Judge
from inference.units import score_units
from inference.verdicts import Judged, Reader
from model import build_detector

main = easy_inference_demo.main
SR = 16000


def reader(eer=0.125, n_bonafide=80, n_spoof=120, config=TINY, window=4, hop=2, **options):
    valid = {"eer": eer, "threshold": 0.0, "calibration_n_bonafide": n_bonafide, "calibration_n_spoof": n_spoof}
    content = {"valid": {**valid, "calibration_slope": 1.0, "calibration_offset": 0.0}, "trained_on": "CORPUS"}
    content["valid"] |= options.pop("valid", {})
    return Reader(content, config, options.get("threshold"), options.get("test_mode", "full"), window * SR, hop * SR)


def judged_as(scores, window=4, hop=2):
    """A recording, judged in windows with these scores."""
    windows = [(i * hop, i * hop + window, score) for i, score in enumerate(scores)]
    mean = float(np.mean([score for score in scores if score is not None]))
    return Judged("x.wav", "x.wav", windows[-1][1], mean, is_mean=True, windows=windows, silent=False)


def scattered(n, share, low, high):
    """n scores, of which a share are low, spread evenly: no two in a row if it is less than a half."""
    return np.where(np.diff(np.floor(np.arange(n + 1) * share + 1e-9)) > 0, low, high)


def overlapping(rate, n, rng):
    """n scores of windows that overlap by a half, each below 0 at this rate: sums of two halves' normal deviates."""
    halves = rng.standard_normal(n + 1)
    return (halves[1:] + halves[:-1]) / np.sqrt(2) - stats.norm.ppf(rate)


# ------------------------------------------------------------------------------------------------- against chance


@pytest.mark.parametrize("n, rate, n_dev", [(1, 0.1, 80), (10, 0.0, 5), (200, 0.125, 80), (5400, 0.3, 25380)])
def test_chance_of_a_number_is_the_tail_of_a_beta_binomial(n, rate, n_dev):
    law = stats.betabinom(n, rate * n_dev + 0.5, (1 - rate) * n_dev + 0.5)
    for k in sorted({0, 1, n // 8, n // 2, n}):
        assert headline.chance_of_count(k, n, rate, n_dev) == pytest.approx(law.sf(k - 1), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("rate, n_dev", [(0.1, 80), (0.4, 20), (0.0, 5)])
def test_chance_of_a_run_is_the_mean_over_the_rates(rate, n_dev):
    rates = stats.beta(rate * n_dev + 0.5, (1 - rate) * n_dev + 0.5)
    for length in (0, 1, 3, 8):
        expected = rates.expect(lambda r: r**length)  # noqa: B023
        assert headline.chance_of_run(length, 1, rate, n_dev) == pytest.approx(expected, rel=1e-4)
        assert headline.chance_of_run(length, 7, rate, n_dev) == pytest.approx(min(7 * expected, 1), rel=1e-4)


@pytest.mark.parametrize("rate, n_dev, seconds, share", [(0.125, 80, 32, 0.24), (0.01, 2000, 12, 0.02)])
def test_two_hours_need_what_the_docs_say(rate, n_dev, seconds, share):
    lengths, counts = np.arange(1, 100), np.arange(1, 1800, 9)
    p_of_runs = np.array([headline.chance_of_run(length, 3599, rate, n_dev) for length in lengths])
    p_of_counts = np.array([headline.chance_of_count(k, 1800, rate, n_dev) for k in counts])
    assert 4 * lengths[2 * p_of_runs < headline.LEVEL][0] == seconds
    assert counts[2 * p_of_counts < headline.LEVEL][0] / 1800 == pytest.approx(share, abs=0.01)


@pytest.mark.slow
def test_false_headlines_are_as_rare_as_stated():
    """A detector of a true error rate, known from few dev utterances; windows that overlap by a half."""
    rng = np.random.default_rng(0)
    for rate, n_dev, n in [(0.1, 80, 150), (0.2, 30, 150), (0.1, 10**6, 300)]:
        false = 0
        for _ in range(1000):
            judge = reader(rng.binomial(n_dev, rate) / n_dev, n_dev)
            false += judge.finding(judged_as(overlapping(rate, n, rng))) != "bona fide"
        # Two standard deviations of 1000 draws; Jeffreys' prior holds its level on average over the rates.
        assert false / 1000 <= headline.LEVEL + 0.007, (rate, n_dev, false)


def test_few_dev_utterances_explain_more():
    scores = scattered(600, 0.2, -1.0, 1.0)
    assert reader(0.1, 20).finding(judged_as(scores)) == "bona fide"
    assert reader(0.1, 2000).finding(judged_as(scores)) == "mostly genuine"


@pytest.mark.parametrize("share, finding", [(0.1, "bona fide"), (0.4, "mostly genuine"), (0.75, "mostly spoofed")])
def test_the_finding_follows_the_share_of_suspicious_windows(share, finding):
    judge, n = reader(0.1), 1000
    judged = judged_as(scattered(n, share, -1.0, 9.0))  # the mean is above the threshold
    assert judge.verdict(judged) == "bona fide" and judge.finding(judged) == finding
    words = {"bona fide": "likely genuine", "mostly spoofed": "mostly synthetic"}
    assert judge.in_words(judged).startswith(words.get(finding, finding)) and "spoof" not in judge.in_words(judged)
    judged = judged_as(scattered(n, 0.96, -1.0, 99.0))
    assert judge.verdict(judged) == "bona fide" and judge.finding(judged) == "spoof"
    assert judge.in_words(judged) == "likely synthetic"
    expected = "960 of its 1000 windows are not above 0, the threshold; "
    expected += "in genuine speech about 1 in 10 would be expected"
    assert judge.reason(judged) == expected


def test_without_a_rate_of_the_dev_set_the_verdict_stays_and_the_reason_is_said():
    low = judged_as(scattered(1000, 0.4, -1.0, 9.0))
    assert reader(0.1).finding(low) == "mostly genuine"
    given = reader(0.1, threshold=0.5)
    assert given.finding(low) == "bona fide" and "no error rate is known" in given.about_windows(low)
    old = reader(0.1, valid={"calibration_n_bonafide": "?"})  # such as before there was a calibration
    assert old.finding(low) == "bona fide" and "how many utterances" in old.about_windows(low)
    assert "; probability of as many, or of as long a stretch: below 0.001)" in reader(0.1).about_windows(low)


def test_a_file_judged_in_one_piece_keeps_its_verdict():
    short = judged_as([-1.0] * 14)  # 30 s
    short.score, short.is_mean = 1.0, False
    judge = reader(0.1)
    assert judge.chance(short) is None and judge.reason(short) == "the score is above 0, the threshold"
    assert "chance explains" not in judge.about_windows(short)
    first = reader(0.1, test_mode="4s")
    assert first.finding(judged_as([-1.0] * 900 + [9999.0])) == "bona fide"


# ------------------------------------------------------------------------------------------------------- stretches


def test_a_spoofed_minute_every_five_is_headlined():
    """Two hours: 58 s of it, to the half-way of the windows around, are suspicious in each minute."""
    starts = np.arange(0, 7198, 2)
    spoofed = (starts % 300 >= 180) & (starts % 300 <= 236)
    rng = np.random.default_rng(0)
    judge, judged = reader(0.1), judged_as(np.where(spoofed, -1.0, 1.0) + 0.1 * rng.standard_normal(len(starts)))
    assert judge.verdict(judged) == "bona fide"
    assert judge.headline(judged) == (
        "mostly genuine, with 24 suspicious stretches longer than chance explains, the longest 58 s at 0:03:01"
    )
    assert [(s.start, s.end) for s in judge.stretches(judged)] == [(181 + 300 * i, 239 + 300 * i) for i in range(24)]
    *lines, more = judge.about_stretches(judged)
    assert more == "and 14 less suspicious" and len(lines) == 10
    for line in lines:
        assert re.fullmatch(r"\d:\d[38]:01 to \d:\d[38]:59, mean score -(1|1\.0\d|0\.9\d\d)", line)


def test_one_spliced_minute_in_an_hour_is_headlined_by_its_length():
    """Fewer windows are suspicious than chance would make so, but they are in a row."""
    rng = np.random.default_rng(0)
    scores = overlapping(0.05, 1799, rng)
    scores[600:629] = -1.0
    judge = reader(0.1)
    chance = judge.chance(judged_as(scores))
    assert chance.low < 0.1 * chance.scored and chance.p_genuine < 0.001
    headline = judge.headline(judged_as(scores))
    assert headline.startswith("mostly genuine, with 1 suspicious stretch longer than chance explains, the longest ")
    length, start = re.search(r"the longest (\d+) s at 0:(20:\d\d|19:5\d)$", headline).groups()
    assert 58 <= int(length) <= 70


def test_stretches_are_ranked_by_how_low_and_how_long():
    scores = np.ones(100)
    scores[10:20], scores[40:45], scores[70] = -0.2, -9.0, -1.0  # 20 s of 0.2; 10 s of 9; 2 s of 1
    judge, judged = reader(), judged_as(scores)
    assert [stretch.rank for stretch in judge.stretches(judged)] == [2, 1, 3]
    lines = judge.about_stretches(judged)
    assert lines[0] == "1:21 to 1:31, mean score -9"


def test_silence_ends_a_stretch_and_is_none():
    judge = reader()
    judged = judged_as([1.0, -1.0, None, None, -1.0, 1.0])
    assert [(s.start, s.end) for s in judge.stretches(judged)] == [(3, 5), (9, 11)]
    assert judge.stretches(judged_as([None, None, None, 1.0])) == []


def test_smoothing_is_a_median_of_neighbours():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(50)
    scores[[0, 20, 21, 22, 23, 24, 25, 26, 40]] = np.nan
    found = headline.smoothed(scores, 7)
    for i, score in enumerate(scores):
        expected = np.nan if np.isnan(score) else np.nanmedian(scores[max(i - 3, 0) : i + 4])
        assert found[i] == pytest.approx(expected, nan_ok=True)


# ----------------------------------------------------------------------------------------------------------- units


UNITS = dataclasses.replace(TINY, unit=0.16)
VALID = {"eer": 0.1, "threshold": 0.0, "calibration_slope": 1.0, "calibration_offset": 0.0}
VALID |= {"calibration_n_bonafide": 80, "calibration_n_spoof": 120}


def judged_as_units(scores, seconds):
    windows = [(0.16 * i, min(0.16 * (i + 1), seconds), score) for i, score in enumerate(scores)]
    return Judged("x.wav", "x.wav", seconds, float(np.mean(scores)), is_mean=True, windows=windows, silent=False)


@pytest.mark.slow
def test_stretches_of_units_are_smoothed_over_a_second():
    """Two hours of units of which one in ten is low by chance, and a spoofed minute."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(45000) - stats.norm.ppf(0.1)
    scores[10000:10375] -= 4
    judge = reader(config=UNITS, valid={"unit_eer": 0.1, "unit_threshold": 0.0, "threshold": 9.0})
    judged = judged_as_units(scores, 7200)
    assert sum(judge.suspicious_windows(judged)) > 4500
    stretches = judge.stretches(judged)
    assert len(stretches) < 200
    (spoofed,) = [stretch for stretch in stretches if stretch.end - stretch.start > 10]
    assert spoofed.rank == 1
    assert spoofed.start == pytest.approx(1600, abs=1) and spoofed.end == pytest.approx(1660, abs=1)
    chance = judge.chance(judged)
    assert chance.scored == 45000 and chance.n == 1800  # one score for every 4 s
    start = "mostly genuine, with 1 suspicious stretch longer than chance explains, the longest "
    assert re.fullmatch(start + r"(59|60|61)\.\d s at 0:26:(39|40|41)\.\d", judge.headline(judged))
    words = "units are not above 0, the threshold; in genuine speech about 1 in 10 would be expected"
    assert judge.reason(judged).endswith(words)
    assert judge.about_windows(judged).startswith("45000 units of 0.16 s; ")
    single = np.ones(45000)
    single[20000:20003] = -1
    assert judge.stretches(judged_as_units(single, 7200)) == []


@pytest.mark.slow
def test_the_timeline_is_of_units_if_the_detector_scores_them(tmp_path, capsys):
    torch.manual_seed(0)
    detector = build_detector(UNITS).eval()
    path = tmp_path / "units.pth"
    valid = {**VALID, "unit_eer": 0.2, "unit_threshold": 0.0}
    checkpoints.save_checkpoint(path, UNITS, detector.state_dict(), valid=valid)
    files = {}
    for seconds in (5, 35):
        files[str(seconds)] = str(tmp_path / f"{seconds}.wav")
        soundfile.write(files[str(seconds)], speech_like(np.random.default_rng(seconds), seconds), SR)
    judge = Judge(path, torch.device("cpu"))
    assert [len(judged.windows) for judged in judge.judge(files)] == [0, 219]
    for judged, n in zip(judge.judge(files, timeline=True), (31, 219)):
        score, units, n_samples, _ = score_units(detector, judged.path)
        assert judged.score == pytest.approx(score, abs=1e-5) and judged.seconds == n_samples / SR
        assert [score for *_, score in judged.windows] == pytest.approx(units.tolist(), abs=1e-5) and len(units) == n
        assert judged.windows[0][0] == 0 and judged.windows[-1][1] <= judged.seconds
        assert all(a[1] == pytest.approx(b[0]) for a, b in zip(judged.windows, judged.windows[1:]))
        assert judged.is_mean == (judged.seconds > 30)
    (first,) = Judge(path, torch.device("cpu"), test_mode="4s").judge({"x": files["35"]}, timeline=True)
    assert len(first.windows) == 17 and not first.is_mean  # the whole utterance's score of windows
    (silent,) = judge.judge({"x": silence(tmp_path / "silent.wav")}, timeline=True)
    assert silent.silent and silent.score is None and silent.windows == []

    flags = ["--model_path", str(path), "--file_to_test", files["35"], "--timeline", "--json", str(tmp_path / "x.json")]
    assert not main([*flags, "--plot", str(tmp_path / "x.png")])
    assert "\nwindows: 219 units of 0.16 s; " in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "x.json").read_text())["files"]
    assert entry["unit_seconds"] == 0.16 and len(entry["windows"]) == 219 and entry["score_is_mean_of_windows"]
    assert (tmp_path / "x.png").stat().st_size > 10000


def silence(path):
    soundfile.write(path, np.zeros(40 * SR), SR)
    return str(path)


# ----------------------------------------------------------------------------------------------------- the outputs


class Levels(torch.nn.Module):
    """A detector whose score is the mean of the samples."""

    front_end = SimpleNamespace(least_samples=400, ready=torch.from_numpy)
    config = TINY

    def score(self, x, normalized):
        return x.mean(1)


@pytest.mark.slow
def test_text_json_and_csv_tell_the_headline_and_all_stretches(tmp_path, monkeypatch, capsys):
    checkpoints.save_checkpoint(tmp_path / "x.pth", TINY, build_detector(TINY).state_dict(), valid=VALID)
    monkeypatch.setattr(checkpoints, "detector_from", lambda path, content: Levels())
    x = np.full(16 * 60 * SR, 0.3)
    starts = [60 * i + 20 for i in range(15)]
    for i, start in enumerate(starts):
        x[start * SR : (start + 30) * SR] = -0.02 * (i + 1)
    path = str(tmp_path / "x.flac")
    soundfile.write(path, x, SR)
    flags = ["--model_path", str(tmp_path / "x.pth"), "--file_to_test", path]
    assert not main([*flags, "--json", str(tmp_path / "x.json"), "--csv", str(tmp_path / "x.csv")])
    text = capsys.readouterr().out
    headline = "mostly genuine, with 15 suspicious stretches longer than chance explains, the longest "
    assert text.startswith(headline)
    assert re.search(r"^reason: \d+ of its 479 windows are not above 0, the threshold; ", text, re.M)
    lines = re.findall("^suspicious: (.*)$", text, re.M)
    assert len(lines) == 11 and lines[10] == "and 5 less suspicious"
    assert re.fullmatch(r"14:[12]\d to 14:[45]\d, mean score -0\.\d{1,3}", lines[0])  # the lowest: 14:20 to 14:50

    (entry,) = json.loads((tmp_path / "x.json").read_text())["files"]
    assert entry["verdict"] == "bona fide" and entry["finding"] == "mostly genuine"
    assert entry["headline"].startswith(headline) and entry["chance"]["p_genuine"] < 0.001
    assert len(entry["suspicious"]) == 15 and len(entry["windows"]) == 479
    for start, found in zip(starts, entry["suspicious"]):
        assert abs(found["start"] - start) <= 2 and abs(found["end"] - start - 30) <= 2
        assert found["start"] == round(found["start"]) and found["score"] == float(f"{found['score']:.3g}")
    assert [found["rank"] for found in entry["suspicious"]] == list(range(15, 0, -1))
    (row,) = csv.DictReader((tmp_path / "x.csv").open())
    assert row["verdict"] == "bona fide" and row["headline"] == entry["headline"]
    ranked = [f"{s['start']:g}-{s['end']:g} {s['score']:g}" for s in entry["suspicious"][::-1]]
    assert row["suspicious"] == "; ".join(ranked)


@pytest.mark.slow
def test_the_page_tells_the_headline_and_the_ten_most_suspicious_stretches(tmp_path, monkeypatch):
    for name in ("uvicorn", "starlette", "matplotlib"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    from inference import web_page

    checkpoints.save_checkpoint(tmp_path / "x.pth", TINY, build_detector(TINY).state_dict(), valid=VALID)
    judge = Judge(tmp_path / "x.pth", torch.device("cpu"))
    judge.detector = Levels()
    x = np.repeat(np.where(np.arange(24) % 2, -0.3, 0.5), 10 * SR)  # 12 stretches of 10 s
    soundfile.write(tmp_path / "x.flac", x, SR)
    status, answer = web_page.answer(judge, str(tmp_path / "x.flac"), "x.flac")
    assert status == 200 and answer["finding"] == "mostly genuine"
    assert answer["verdict"].startswith("mostly genuine, with 12 suspicious stretches, the longest ")
    assert re.match(r"\d+ of its 119 windows are not above 0, the threshold; in genuine speech ", answer["reason"])
    assert len(answer["stretches"]) == 10 and answer["more"] == "and 2 less suspicious"
    for stretch in answer["stretches"]:
        assert stretch["text"].startswith(judge.time(judged_as([0.0] * 119), stretch["start"]))
        assert min((stretch["start"] - 10) % 20, (10 - stretch["start"]) % 20) <= 2  # low from 10 s on, every 20 s


def test_the_tool_makes_and_judges_long_files(tmp_path, corpus, finished_run, output):
    from tools import long_files

    prompts = {"-": [np.full(3 * SR, 0.5)], "A01": [np.full(7 * SR, -0.5)], "A02": [np.full(SR, -0.25)]}
    long_files.write_mix(tmp_path / "x.flac", 610, prompts, ["A01", "A02"], np.random.default_rng(0))
    x, _ = soundfile.read(tmp_path / "x.flac")
    assert len(x) == 610 * SR
    spoofed = np.arange(len(x)) / SR % 300 >= 240
    assert np.all((x < 0) == spoofed) and set(x[x < 0]) <= {-0.5, -0.25}
    assert long_files.overlap([(240, 270, 0), (290, 310, 0)], 600) == (pytest.approx(40 / 60 / 2), 10 / 480)

    command = ["--corpus", str(corpus), "--model_path", str(finished_run / "checkpoints" / "average_best_2.pth")]
    text = output(long_files.main, [*command, "--seconds", "301", "--genuine", "31", "2"])
    assert re.search(r"^5:01, a spoofed minute every five$", text, re.M)
    assert re.search(r"^  150 windows of 4 s every 2 s; \d+ not above ", text, re.M)
    assert re.search(r"^2 genuine mixes of 0:31: \d false headlines$", text, re.M)
