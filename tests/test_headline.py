"""The headline of a long recording: the test against chance, the stretches, and that all outputs tell them."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY
from scipy import stats

import checkpoints
import easy_inference_demo
from inference import headline
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


def test_false_headlines_are_as_rare_as_stated():
    """A detector of a true error rate, known from few dev utterances; windows that overlap by a half."""
    rng = np.random.default_rng(0)
    for rate, n_dev, n in [(0.1, 80, 300), (0.2, 30, 300), (0.1, 10**6, 600)]:
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
    assert judge.reading(judged).startswith(finding)
    judged = judged_as(scattered(n, 0.96, -1.0, 99.0))
    assert judge.verdict(judged) == "bona fide" and judge.finding(judged) == "spoof"
    assert judge.reading(judged).startswith("spoof: 960 of its 1000 windows are not above 0, the threshold where ")


def test_without_a_rate_of_the_dev_set_the_verdict_stays_and_the_reason_is_said():
    low = judged_as(scattered(1000, 0.4, -1.0, 9.0))
    assert reader(0.1).finding(low) == "mostly genuine"
    given = reader(0.1, threshold=0.5)
    assert given.finding(low) == "bona fide" and "no error rate is known" in given.about_windows(low)
    old = reader(0.1, valid={"calibration_n_bonafide": "?"})  # such as before there was a calibration
    assert old.finding(low) == "bona fide" and "how many utterances" in old.about_windows(low)
    assert "; with probability below 0.001 as many, or as long a stretch)" in reader(0.1).about_windows(low)


def test_a_file_judged_in_one_piece_keeps_its_verdict():
    short = judged_as([-1.0] * 14)  # 30 s
    short.score, short.is_mean = 1.0, False
    judge = reader(0.1)
    assert judge.chance(short) is None and judge.reading(short).startswith("bona fide: the score is above 0, ")
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


# ----------------------------------------------------------------------------------------------------- the outputs


class Levels(torch.nn.Module):
    """A detector whose score is the mean of the samples."""

    front_end = SimpleNamespace(least_samples=400, ready=torch.from_numpy)
    config = TINY

    def score(self, x, normalized):
        return x.mean(1)


def test_text_json_and_csv_tell_the_headline_and_all_stretches(tmp_path, monkeypatch, capsys):
    valid = {"eer": 0.1, "threshold": 0.0, "calibration_slope": 1.0, "calibration_offset": 0.0}
    valid |= {"calibration_n_bonafide": 80, "calibration_n_spoof": 120}
    checkpoints.save_checkpoint(tmp_path / "x.pth", TINY, build_detector(TINY).state_dict(), valid=valid)
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
    assert re.search(f"^{headline}.*: \\d+ of its 479 windows are not above 0, the threshold where ", text, re.M)
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
