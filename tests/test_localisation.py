"""The report on frame scores of partially spoofed speech, against plain loops and brute force over milliseconds."""

import csv
import io
import json
import re
from fractions import Fraction

import numpy as np
import pytest

import EER_minDCF
from common.console import UserError
from corpora import BONAFIDE, SPOOF
from corpora.frame_scores import FrameScores, read_frame_scores, write_frame_scores
from corpora.segments import NON_SPEECH, TICKS, spans_of_labels, unit_labels, write_rttm
from reports.bootstrap import cluster_weights
from reports.segments import Frames, decisions, read_frames, trials_eer

MS = TICKS // 1000


def plain_eer(trials):
    """Of (score, is bona fide, weight): every threshold in turn, in fractions; the mean of the rates where they are
    nearest, the first of several.
    """
    total = [sum(weight for _, bonafide, weight in trials if bonafide == of) for of in (False, True)]
    points = []
    for threshold in [-np.inf, *sorted({score for score, *_ in trials})]:
        frr = Fraction(sum(w for s, bonafide, w in trials if bonafide and s <= threshold), total[1])
        far = Fraction(sum(w for s, bonafide, w in trials if not bonafide and s > threshold), total[0])
        points.append((abs(frr - far), frr, far))
    _, frr, far = min(points, key=lambda point: point[0])
    return float((frr + far) / 2)


def drawn_frames(seed, n=6, step=20, grid=1):
    """Frames of n utterances whose edges are multiples of `grid` ms, scores few enough for ties; up to two scores are
    missing, or too many. The first utterance is bona fide speech and non-speech.
    """
    rng = np.random.default_rng(seed)
    scores, spans = [], []
    for i in range(n):
        edges = np.unique(rng.integers(1, 600 // grid, 6) * grid)
        labels = 1 + np.arange(len(edges)) % 2 if i == 0 else (rng.integers(0, 3) + np.arange(len(edges))) % 3
        begins = [0, *edges[:-1].tolist()]
        spans.append([(a / 1000, int(b) / 1000, int(label)) for a, b, label in zip(begins, edges, labels)])
        n_frames = max(int(edges[-1] / step + 0.5) + rng.integers(-2, 3), 1)
        scores.append(rng.integers(0, 9, n_frames).astype(float))
    return Frames(
        [f"u{i}" for i in range(n)], step * MS, np.concatenate(scores), np.array(list(map(len, scores))), spans
    )


def per_utterance(frames):
    return zip(np.split(frames.scores, np.cumsum(frames.counts)[:-1]), frames.spans)


def plain_unit_scores(scores, ratio, rule="mean"):
    """Scores of units of `ratio` frames, or of a frame in 1 / ratio parts."""
    if ratio < 1:
        return [score for score in scores for _ in range(int(1 / ratio))]
    groups = [scores[i : i + int(ratio)] for i in range(0, len(scores), int(ratio))]
    return [sum(group) / len(group) if rule == "mean" else min(group) for group in groups]


@pytest.mark.parametrize("unit", [10, 20, 40, 160])
@pytest.mark.parametrize("rule", ["mean", "least"])
def test_point_eer_equals_a_plain_loop(unit, rule):
    for seed in range(20):
        frames, trials = drawn_frames(seed), []
        for scores, spans in per_utterance(frames):
            labels = unit_labels(spans, spans[-1][1], unit / 1000)
            own = plain_unit_scores(scores.tolist(), Fraction(unit, 20), rule)
            trials += [(score, label == BONAFIDE, 1) for score, label in zip(own, labels)]
        if len({bonafide for _, bonafide, _ in trials}) == 2:
            found, _ = trials_eer(frames.point_trials(unit * MS, rule))
            assert found.value == pytest.approx(plain_eer(trials), abs=1e-12)


@pytest.mark.parametrize("unit", [10, 20, 40, 160])
def test_range_eer_equals_brute_force_over_milliseconds(unit):
    for seed in range(20):
        frames, trials = drawn_frames(seed), []
        for scores, spans in per_utterance(frames):
            own = plain_unit_scores(scores.tolist(), Fraction(unit, 20))
            for ms in range(round(spans[-1][1] * 1000)):
                (label,) = (label for start, end, label in spans if round(start * 1000) <= ms < round(end * 1000))
                trials.append((own[min(ms // unit, len(own) - 1)], label != SPOOF, 1))
        found, _ = trials_eer(frames.range_trials(unit * MS))
        assert found.value == pytest.approx(plain_eer(trials), abs=1e-9)


def test_on_the_edges_of_units_range_and_point_eer_are_the_same():
    for seed in range(20):
        frames = drawn_frames(seed, grid=20)
        counts = [round(spans[-1][1] * 50) for spans in frames.spans]
        scores = np.random.default_rng(seed).standard_normal(sum(counts))
        frames = Frames(frames.utt_ids, frames.step, scores, np.array(counts), frames.spans)
        point, threshold = trials_eer(frames.point_trials(20 * MS))
        ranged, its_threshold = trials_eer(frames.range_trials(20 * MS))
        assert (ranged.value, its_threshold) == (pytest.approx(point.value, abs=1e-12), threshold)
        assert sum(frames.range_trials(20 * MS).masses) == sum(counts) * 20 * MS


def test_perfect_scores_have_no_errors_and_constant_ones_half():
    frames = drawn_frames(0, n=20)
    labels = [unit_labels(spans, spans[-1][1], 0.02) for spans in frames.spans]
    perfect = Frames(
        frames.utt_ids, frames.step, np.concatenate(labels) - 0.3, np.array(list(map(len, labels))), frames.spans
    )
    trials = perfect.point_trials(20 * MS)
    assert trials_eer(trials)[0].value == 0
    assert [value.value for value in decisions(trials, 0, 20)] == [1, 1, 1]
    constant = Frames(perfect.utt_ids, perfect.step, np.full(len(perfect.scores), 0.1), perfect.counts, perfect.spans)
    for unit in (5, 10, 20, 60, 140, 320):  # sums of three, seven or a last few of 0.1 round, each otherwise
        for kind in (constant.point_trials(unit * MS), constant.range_trials(unit * MS)):
            assert trials_eer(kind)[0].value == 0.5, unit
    assert [trials_eer(constant.utterances(rule))[0].value for rule in ("mean", "least")] == [0.5, 0.5]


def test_utterances_are_scored_by_the_mean_or_the_least_of_their_frames():
    frames = drawn_frames(3)
    for rule, function in (("mean", np.mean), ("least", np.min)):
        trials = frames.utterances(rule)
        assert trials.scores.tolist() == pytest.approx([function(scores) for scores, _ in per_utterance(frames)])
        assert trials.bonafide.tolist() == [SPOOF not in [label for *_, label in spans] for spans in frames.spans]


def test_precision_recall_and_f1_equal_a_plain_count():
    for seed in range(20):
        frames = drawn_frames(seed)
        trials, threshold = frames.point_trials(20 * MS), float(seed % 9)
        pairs = list(zip((trials.scores <= threshold).tolist(), (~trials.bonafide).tolist()))
        hits = pairs.count((True, True))
        expected = [
            hits / sum(decided for decided, _ in pairs) if any(decided for decided, _ in pairs) else np.nan,
            hits / sum(spoofed for _, spoofed in pairs),
            hits / (hits + (pairs.count((True, False)) + pairs.count((False, True))) / 2),
        ]
        found = [value.value for value in decisions(trials, threshold, 6)]
        assert found == pytest.approx(expected, nan_ok=True)


def test_intervals_are_those_of_drawing_utterances():
    """Replicates by the report against the figures of utterances that are drawn, and repeated, one by one."""
    frames = drawn_frames(1, n=30)
    bonafide = frames.utterances("mean").bonafide
    weights = cluster_weights(np.arange(30), bonafide, 400, seed=1)
    for trials in (frames.point_trials(20 * MS), frames.range_trials(20 * MS)):
        masses = np.ones(len(trials.scores), int) if trials.masses is None else trials.masses
        values, rates = [], []
        for weight in weights[:400].astype(int):
            own = masses * weight[trials.utterance]
            kept = np.repeat(np.arange(len(own)), weight[trials.utterance])
            drawn = type(trials)(*(x[kept] for x in trials[:3]), masses[kept])
            assert drawn.masses.sum() == own.sum()
            values.append(trials_eer(drawn)[0].value)
            rates.append([value.value for value in decisions(drawn, 4.0, 30)])
        found, _ = trials_eer(trials, weights)
        assert (found.low, found.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-6)
        for value, drawn in zip(decisions(trials, 4.0, 30, weights), np.transpose(rates)):
            assert (value.low, value.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-6)


# ---------------------------------------------------------------------------------------------------- files and command


def write_set(folder, name, seed, n=12):
    """Frame scores and labels of a set that tells spoofed frames by chance and score."""
    rng, frames, segments = np.random.default_rng(seed), [], {}
    for i in range(n):
        labels = np.ones(100, int) if i < 4 else (np.arange(100) // rng.integers(10, 40)) % 2
        segments[f"u{i}"] = spans_of_labels(labels, 0.02)
        scores = labels[:98] + 0.6 * rng.standard_normal(98)
        frames.append((f"u{i}", FrameScores(0.02, scores.astype(np.float32))))
    write_frame_scores(folder / f"{name}.txt", frames)
    write_rttm(folder / f"{name}.rttm", segments)
    return folder / f"{name}.txt", folder / f"{name}.rttm"


def test_frame_scores_are_read_as_written(tmp_path):
    rng = np.random.default_rng(0)
    frames = {f"an id {i}": FrameScores(0.02, rng.standard_normal(i + 1).astype(np.float32)) for i in range(5)}
    write_frame_scores(tmp_path / "out", frames.items())
    read = read_frame_scores(tmp_path / "out")
    assert list(read) == list(frames)
    for utt_id, (step, scores) in read.items():
        assert step == 0.02 and scores.dtype == np.float64
        assert scores.astype(np.float32).tolist() == frames[utt_id].scores.tolist()
    for utt_id, scores in (("a\tb", [1.0]), ("", [1.0]), ("a", []), ("a", [np.nan])):
        with pytest.raises(ValueError, match="expected an id without tabs, and at least one score"):
            write_frame_scores(tmp_path / "other", [("x", FrameScores(1, [1.0])), (utt_id, FrameScores(1, scores))])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", ": expected one utterance per line, found none"),
        ("a 0.02 1 2\n", ":1: expected UTT<TAB>STEP<TAB>SCORE SCORE ..., found a 0.02 1 2"),
        ("a\t0.02\t\n", ":1: expected UTT<TAB>STEP"),
        ("a\t0.02\t1\n\na\t0.02\t1\n", ":3: duplicate scores for a"),
        ("a\t0\t1\n", ":1: expected more than 0 seconds per frame, found 0"),
        ("a\tx\t1\n", ":1: expected a finite number as the seconds per frame, found x"),
        ("a\t1\t1 nan\n", ":1: expected a finite number as a score of a, found nan"),
        ("a\t1\t1 1_0\n", ":1: expected a finite number as a score of a, found 1_0"),
        ("a\t1\t1 ٣\n", ":1: expected a finite number as a score of a, found ٣"),
    ],
)
def test_frame_scores_that_do_not_fit_are_told_by_line(tmp_path, text, message):
    (tmp_path / "scores").write_text(text)
    with pytest.raises(UserError, match=f"{tmp_path / 'scores'}{message}"):
        read_frame_scores(tmp_path / "scores")


def test_scores_and_labels_that_do_not_match_are_told(tmp_path, capsys):
    scores, labels = write_set(tmp_path, "a", 0)
    lines = scores.read_text().splitlines()
    scores.write_text("\n".join([*lines[:-1], "other\t0.02\t1 2 3"]))
    message = r"scores have no labels \(first other\), 1 utterances with labels have no scores \(first u11\)"
    with pytest.raises(UserError, match=message):
        read_frames(scores, labels)
    assert read_frames(scores, labels, allow_missing=True).utt_ids == [f"u{i}" for i in range(11)]
    assert "1 utterances with scores have no labels" in capsys.readouterr().err
    for line, message in (
        ("u11\t0.04\t" + "1 " * 50, "expected frames of 0.02 s throughout, found 0.04 s for u11"),
        ("u11\t0.02\t" + "1 " * 96, "expected scores for 2 s, .* u11 in .*rttm, found 96 frames of 0.02 s"),
    ):
        scores.write_text("\n".join([*lines[:-1], line]))
        with pytest.raises(UserError, match=message):
            read_frames(scores, labels)
    scores.write_text("\n".join([*lines[:-1], "u11\t0.02\t" + "1 " * 97]))
    assert read_frames(scores, labels).counts[-1] == 97


def test_the_command_reports_in_every_form_and_draws(tmp_path, capsys):
    scores, labels = write_set(tmp_path, "a", 0)
    dev = write_set(tmp_path, "dev", 1)
    flags = ["--frames", str(scores), "--labels_file", str(labels), "--unit", "0.02", "0.16", "--replicates", "100"]
    EER_minDCF.main([*flags, "--csv", "--dev", *map(str, dev)])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows] == ["0.02 s", "0.16 s", "mean of its frames", "least of its frames"]
    frames, dev_frames = read_frames(scores, labels), read_frames(*dev)
    for row, unit in zip(rows, (20, 160)):
        trials = frames.point_trials(unit * MS)
        assert (int(row["n_bonafide"]), int(row["n_spoof"])) == (sum(trials.bonafide), sum(~trials.bonafide))
        threshold = trials_eer(dev_frames.point_trials(unit * MS))[1]
        assert float(row["threshold"]) == threshold
        assert float(row["f1"]) == decisions(trials, threshold, 12)[2].value
        assert float(row["eer_low"]) < float(row["eer"]) == trials_eer(trials)[0].value < float(row["eer_high"])
        assert float(row["range_eer"]) == trials_eer(frames.range_trials(unit * MS))[0].value
    EER_minDCF.main([*flags, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["checks"]["a"] == {"path": str(scores), "utterances": 12, "frames": 12 * 98}
    assert content["rows"][0]["figures"]["eer"]["value"] == float(rows[0]["eer"])
    EER_minDCF.main([*flags, "--plot", str(tmp_path / "u.svg"), "--plot_utt", "u7"])
    text = capsys.readouterr().out
    assert "segments: 12 utterances, 8 of them with spoofed stretches" in text and "\n0.16 s" in text
    assert (tmp_path / "u.svg").read_text().startswith("<?xml")
    EER_minDCF.main([*flags, "--latex"])
    assert r"0.16 s & " in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--score_column", "2", "--cluster", "speaker"],
            "--score_column, --cluster: cannot be combined with --frames",
        ),
        (["--by", "attack"], "--by: expected --labels_file to be a trial list, found .*rttm"),
        (["--plot_utt", "u7"], "--plot_utt needs --plot"),
        (["--unit", "0.03"], "--unit 0.03: expected a multiple or a divisor .* 0.02 s"),
        (["--plot", "u.png", "--plot_utt", "x"], "--plot_utt x: .*a.txt has no such utterance"),
    ],
)
def test_flags_that_do_not_go_with_frames_are_told(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    scores, labels = write_set(tmp_path, "a", 0)
    with pytest.raises((UserError, SystemExit)) as caught:
        EER_minDCF.main(["--frames", str(scores), "--labels_file", str(labels), *flags])
    assert re.search(message, f"{caught.value} {capsys.readouterr().err}")
    with pytest.raises(SystemExit):
        EER_minDCF.main(["--path", str(scores), "--labels_file", str(labels), "--unit", "1"])
    assert "--unit: only with --frames" in capsys.readouterr().err


def test_a_set_of_one_class_is_told(tmp_path):
    write_frame_scores(tmp_path / "scores", [("a", FrameScores(0.02, np.ones(50)))])
    write_rttm(tmp_path / "rttm", {"a": [(0.0, 0.5, BONAFIDE), (0.5, 1.0, NON_SPEECH)]})
    with pytest.raises(UserError, match="expected bona fide and spoofed stretches, found none of one class"):
        EER_minDCF.main(["--frames", str(tmp_path / "scores"), "--labels_file", str(tmp_path / "rttm")])


@pytest.fixture
def partial_list(tmp_path):
    """(frame scores {utt_id: FrameScores}, a list in the layout of PartialSpoof, labels of segments around it)."""
    rng, scores, arrays, lines = np.random.default_rng(3), {}, {}, []
    for i in range(24):
        labels = np.ones(60, int)
        labels[20 : 40 if i % 3 else 20] = 0
        scores[f"u{i}"] = FrameScores(0.02, rng.normal(2 * labels))
        arrays[f"u{i}"] = labels.astype(str)
        lines.append(f"S{i % 2} u{i} - {'CON spoof' if i % 3 else '- bonafide'}\n")
    (tmp_path / "segment_labels").mkdir()
    (tmp_path / "protocols").mkdir()
    np.save(tmp_path / "segment_labels" / "eval_seglab_0.02.npy", arrays, allow_pickle=True)
    path = tmp_path / "protocols" / "PartialSpoof.LA.cm.eval.trl.txt"
    path.write_text("".join(lines))
    write_frame_scores(tmp_path / "a.txt", scores.items())
    return scores, path, tmp_path / "segment_labels" / "eval_seglab_0.02.npy"


def csv_rows(capsys, *flags):
    EER_minDCF.main([*map(str, flags), "--replicates", "20", "--csv"])
    return {(row["by"], row["name"]): row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}


def test_a_list_finds_its_labels_and_is_broken_down(tmp_path, capsys, partial_list):
    """Each part of the breakdown is the report on the frame scores of its utterances alone."""
    scores, path, labels = partial_list
    whole = csv_rows(capsys, "--frames", tmp_path / "a.txt", "--labels_file", path, "--by", "speaker")
    assert whole.pop(("speaker", "S0")) != whole.pop(("speaker", "S1"))
    assert whole == csv_rows(capsys, "--frames", tmp_path / "a.txt", "--labels_file", labels)
    rows = csv_rows(capsys, "--frames", tmp_path / "a.txt", "--labels_file", path, "--by", "speaker", "--unit", "0.04")
    for k in range(2):
        write_frame_scores(tmp_path / "a.txt", [(f"u{i}", scores[f"u{i}"]) for i in range(24) if i % 2 == k])
        flags = ("--labels_file", labels, "--unit", "0.04", "--allow_missing")
        part = csv_rows(capsys, "--frames", tmp_path / "a.txt", *flags)["unit", "0.04 s"]
        names = ("eer", "range_eer", "f1", "eer_low", "eer_high", "n_spoof")
        assert [rows["speaker", f"S{k}"][name] for name in names] == [part[name] for name in names]
    with pytest.raises(UserError, match="--by codec: .* speaker, attack"):
        EER_minDCF.main(
            ["--frames", str(tmp_path / "a.txt"), "--labels_file", str(path), "--allow_missing", "--by", "codec"]
        )


def test_bona_fide_trials_of_a_list_need_no_spans(tmp_path, capsys, partial_list):
    scores, path, labels = partial_list
    before = csv_rows(capsys, "--frames", tmp_path / "a.txt", "--labels_file", path)
    arrays = np.load(labels, allow_pickle=True)[()]
    np.save(labels, {utt_id: own for utt_id, own in arrays.items() if "0" in own}, allow_pickle=True)
    assert csv_rows(capsys, "--frames", tmp_path / "a.txt", "--labels_file", path) == before
