"""Training on partially spoofed speech: where the spans come from, what is learnt, going on, several processes."""

import json
import shutil
import signal

import numpy as np
import pytest
import soundfile
import torch

import checkpoints
import corpora
import eval as eval_script
import train
from corpora import BONAFIDE, SPOOF
from corpora.frame_scores import read_frame_scores
from corpora.segments import read_segments, spans_of_labels, unit_labels, write_rttm

FLAGS = [
    *("--model_name", "LogMel_Nes2Net_X", "--epochs", "4", "--batch_size", "8", "--crop", "16000", "--lr", "0.003"),
    *("--crop_place", "random", "--algo", "0", "--schedule", "constant", "--keep", "every", "--num_workers", "0"),
    *("--class_weights", "0.5", "0.5", "--validation", "eer", "--seed", "1"),
]


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """A corpus in the layout of PartialSpoof: white noise, low-passed where it is spoofed."""
    folder = tmp_path_factory.mktemp("partial")
    lists = folder / "protocols" / "PartialSpoof_LA_cm_protocols"
    lists.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, n in (("train", 32), ("dev", 16)):
        (folder / split / "con_wav").mkdir(parents=True)
        lines, segments, arrays = [], {}, {}
        for i in range(n):
            name, labels = f"CON_{split[0].upper()}_{i:04}", np.ones(rng.integers(60, 100), int)
            if i % 2:
                start = rng.integers(5, 30)
                labels[start : start + rng.integers(15, 30)] = 0
            x = rng.normal(0, 0.1, 320 * len(labels)).astype(np.float32)
            x = np.where(np.repeat(labels, 320), x, np.convolve(x, np.ones(4) / 2, "same")).astype(np.float32)
            soundfile.write(folder / split / "con_wav" / f"{name}.wav", x, 16000)
            lines.append(f"LA_{i % 4:04} {name} - {'CON spoof' if i % 2 else '- bonafide'}\n")
            segments[name], arrays[name] = spans_of_labels(labels, 0.02), labels.astype(str)
        (lists / f"PartialSpoof.LA.cm.{split}.trl.txt").write_text("".join(lines))
        write_rttm(folder / f"{split}.rttm", segments)
        with open(folder / f"{split}.txt", "w") as file:
            for name, spans in segments.items():
                words = [f"{start:.2f}-{end:.2f}-{'bonafide' if label else 'spoof'}" for start, end, label in spans]
                file.write(f"{name} {spans[-1][1]:.2f} {'spoof' if len(spans) > 1 else 'bonafide'} {' '.join(words)}\n")
        (folder / "segment_labels").mkdir(exist_ok=True)
        np.save(folder / "segment_labels" / f"{split}_seglab_0.02.npy", arrays, allow_pickle=True)
    return folder


def lists(folder):
    names = (
        folder / "protocols" / "PartialSpoof_LA_cm_protocols" / f"PartialSpoof.LA.cm.{split}.trl.txt"
        for split in ("train", "dev")
    )
    return [word for flag, name in zip(("--train_protocol", "--dev_protocol"), names) for word in (flag, str(name))]


def trained(tmp_path, *flags):
    train.main([*FLAGS, *flags, "--log_dir", str(tmp_path), "--foldername", "run"])
    (run,) = (tmp_path / "run").iterdir()
    return run


def weights(run, epoch=4):
    return checkpoints.read_checkpoint(next((run / "checkpoints").glob(f"*[_]{epoch}_EER*")))


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["frames", "both"])
def test_where_it_is_spoofed_is_learnt(tmp_path, partial, labels, capsys):
    run = trained(tmp_path, *lists(partial), "--labels", labels)
    content = weights(run)
    assert content["valid"]["unit_eer"] < 0.1 and content["valid"]["selected_by"] == "unit_eer"
    assert (
        content["config"]["unit"] == 0.16
        and content["config"]["utterance"] == {"frames": "worst", "both": "pooled"}[labels]
    )
    printed = capsys.readouterr().out
    assert "train: 32 trials have spans" in printed and "dev_unit_eer" in printed
    detector = checkpoints.load_detector(next((run / "checkpoints").glob("*_4_EER*")))
    x, _ = soundfile.read(partial / "dev" / "con_wav" / "CON_D_0001.wav", dtype="float32")
    assert detector.unit_scores_of(detector(torch.from_numpy(x)[None])).shape == (1, int(len(x) / 2560 + 0.5))


@pytest.mark.slow
def test_every_form_of_the_labels_trains_the_same(tmp_path, partial):
    segments = ("--train_segments", str(partial / "train.rttm"), "--dev_segments", str(partial / "dev.rttm"))
    audio = ("--train_audio_dir", str(partial / "train/con_wav"), "--dev_audio_dir", str(partial / "dev/con_wav"))
    spans = ("--train_protocol", str(partial / "train.txt"), "--dev_protocol", str(partial / "dev.txt"))
    runs = {"arrays": lists(partial), "rttm": [*lists(partial), *segments], "lines": [*spans, *audio]}
    states = []
    for name, flags in runs.items():
        run = trained(tmp_path / name, *flags, "--labels", "frames", "--epochs", "1", "--corpus", "PartialSpoof")
        states.append(weights(run, 1)["model"])
    for other in states[1:]:
        assert all(torch.equal(other[name], states[0][name]) for name in other)


def test_a_killed_run_goes_on_in_the_same_weights(tmp_path, partial, processes):
    flags = [*FLAGS, *lists(partial), "--labels", "both", "--validation", "loss", "--save_every_minutes", "0"]
    whole = trained(tmp_path / "whole", *flags[len(FLAGS) :])
    flags += ["--log_dir", str(tmp_path / "cut"), "--foldername", "run", "--resume", "auto"]
    statuses, log = processes({"flags": flags, "at": ["step", 7, signal.SIGKILL]})
    assert statuses == [-signal.SIGKILL], log
    statuses, log = processes({"flags": flags})
    assert statuses == [0], log
    (cut,) = (tmp_path / "cut" / "run").iterdir()
    for path in (whole / "checkpoints").glob("*_4*"):
        one, other = (
            checkpoints.read_checkpoint(folder / "checkpoints" / path.name)["model"] for folder in (whole, cut)
        )
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_does_not_fit_is_one_line(tmp_path, partial, corpus, fails):
    flags = [*FLAGS, "--log_dir", str(tmp_path), *lists(partial)]
    fails(train.main, [*flags, "--label_step", "0.16"], "--label_step", "--labels frames")
    fails(train.main, [*flags, "--labels", "frames", "--label_step", "0.155"], "--label_step", "0.01 s")
    rttm = partial / "train.rttm"
    short = tmp_path / "short.rttm"
    short.write_text("".join(line for line in rttm.read_text().splitlines(True) if "CON_T_0003" not in line))
    fails(
        train.main,
        [*flags, "--labels", "frames", "--train_segments", str(short)],
        "short.rttm",
        "CON_T_0003",
    )
    wrong = tmp_path / "wrong.rttm"
    wrong.write_text(rttm.read_text().replace(" spoof ", " bonafide "))
    fails(
        train.main,
        [*flags, "--labels", "frames", "--train_segments", str(wrong)],
        "wrong.rttm",
        "CON_T_0001",
    )
    whole = ["--database_path", str(corpus), *FLAGS, "--labels", "frames", "--log_dir", str(tmp_path)]
    fails(train.main, whole, "--labels frames", "--train_segments")
    other = [*flags, "--labels", "frames"]
    fails(
        train.main,
        [*other, "--model_name", "wav2vec2_AASIST", "--ssl", "tiny", "--ssl_path", "none"],
        "AASIST",
    )


@pytest.mark.slow
def test_a_run_that_goes_on_finds_other_spans(tmp_path, partial, fails):
    rttm = tmp_path / "train.rttm"
    rttm.write_text((partial / "train.rttm").read_text())
    flags = [*lists(partial), "--labels", "frames", "--train_segments", str(rttm), "--epochs", "1"]
    run = trained(tmp_path, *flags)
    assert json.loads((run / "config.json").read_text())["training"]["labels"] == "frames"
    lines = rttm.read_text().splitlines(True)
    place = next(i for i, line in enumerate(lines) if " spoof " in line)
    words = lines[place].split()
    words[4] = f"{float(words[4]) - 0.02:.7f}"
    lines[place] = " ".join(words) + "\n"
    rttm.write_text("".join(lines))
    again = [*FLAGS, *flags, "--log_dir", str(tmp_path), "--foldername", "run", "--resume", "auto"]
    fails(train.main, again, "other data", "labels")


def test_eval_writes_frame_scores_and_the_spans_that_they_decide(tmp_path, partial, fails, untrained, processes):
    run = trained(tmp_path, *lists(partial), "--labels", "both", "--epochs", "1")
    (checkpoint,) = (run / "checkpoints").glob("*_1_EER*")
    dev = lists(partial)[3]
    # One that is longer than what is scored in one piece.
    audio = tmp_path / "audio"
    shutil.copytree(partial / "dev" / "con_wav", audio)
    soundfile.write(audio / "CON_D_0002.wav", np.random.default_rng(5).normal(0, 0.1, 41 * 16000), 16000)
    flags = ["--protocol", dev, "--audio_dir", str(audio), "--model_path", str(checkpoint)]
    files = {name: str(tmp_path / name) for name in ("scores.txt", "frames.tsv", "spans.rttm")}
    outputs = ["--eval_output", files["scores.txt"], "--frames", files["frames.tsv"], "--rttm", files["spans.rttm"]]
    assert not eval_script.main([*flags, *outputs])
    frames, detector = read_frame_scores(files["frames.tsv"]), checkpoints.load_detector(checkpoint)
    scores = corpora.read_scores(files["scores.txt"])
    assert list(frames) == list(scores) == [f"CON_D_{i:04}" for i in range(16)]
    for utt_id, own in frames.items():
        x, _ = soundfile.read(audio / f"{utt_id}.wav", dtype="float32")
        assert own.step == 0.16 and len(own.scores) == int(len(x) / 2560 + 0.5)
        if utt_id != "CON_D_0002":
            with torch.inference_mode():
                logits = detector(torch.from_numpy(x)[None])
            np.testing.assert_allclose(own.scores, detector.unit_scores_of(logits)[0], atol=1e-5)
            assert scores[utt_id] == pytest.approx(detector.scores_of(logits).item(), abs=1e-5)
    threshold = checkpoints.read_checkpoint(checkpoint)["valid"]["unit_threshold"]
    for utt_id, spans in read_segments(files["spans.rttm"]).items():
        own = frames[utt_id].scores
        decided = unit_labels(spans, 0.16 * len(own), 0.16)
        clear = abs(own - threshold) > 1e-5  # nine digits of a score that is the threshold may fall on either side
        np.testing.assert_array_equal(decided[clear], np.where(own > threshold, BONAFIDE, SPOOF)[clear])

    # Plain scores are the same without; a killed run ends in the same files.
    plain = tmp_path / "plain.txt"
    assert not eval_script.main([*flags, "--eval_output", str(plain)])
    np.testing.assert_allclose(
        [corpora.read_scores(plain)[name] for name in scores if name != "CON_D_0002"],
        [score for name, score in scores.items() if name != "CON_D_0002"],
        atol=1e-5,
    )
    again = {name: str(tmp_path / f"again-{name}") for name in files}
    argv = ["--eval_output", again["scores.txt"], "--frames", again["frames.tsv"], "--rttm", again["spans.rttm"]]
    killed = {"command": "eval", "flags": [*flags, *argv, "--batch_samples", "1"]}
    statuses, log = processes({**killed, "at": ["scored", 5, signal.SIGKILL]})
    assert statuses == [-signal.SIGKILL], log
    statuses, log = processes(killed)
    assert statuses == [0] and "going on with" in log, log
    for utt_id, own in read_frame_scores(again["frames.tsv"]).items():
        np.testing.assert_allclose(own.scores, frames[utt_id].scores, atol=1e-5)
    assert read_segments(again["spans.rttm"]).keys() == frames.keys()
    assert list(corpora.read_scores(again["scores.txt"])) == list(scores)

    fails(eval_script.main, [*flags[:4], "--model_path", str(untrained), *outputs], "--frames", "--labels frames")
    fails(eval_script.main, [*flags, "--eval_output", files["scores.txt"], "--frames", dev], "--frames")
