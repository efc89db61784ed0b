import os
import re
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import checkpoints
import corpora
import data_utils
import eval as eval_script
from data_utils import load_audio, repeat_pad
from front_ends import FRONT_ENDS
from front_ends.wav2vec2 import Wav2Vec2
from inference import precision, scoring
from model import ModelConfig, build_detector

ROOT = Path(__file__).parent.parent
LENGTHS = [1, 150, 399, 400, 719, 720, 4000, 4000, 4100, 4239, 4240, 9000, 9001, 9050, 16000, 3999, 12345, 4100]
LARGE = {"extractor_mode": "layer_norm", "conv_bias": True}  # as the large encoders, frame by frame


def make_detector(monkeypatch, normalize, overrides, front_end="wav2vec2"):
    presets = FRONT_ENDS[front_end].presets
    tiny = presets["tiny"]
    monkeypatch.setitem(presets, "tiny", tiny._replace(fields={**tiny.fields, "normalize": normalize, **overrides}))
    torch.manual_seed(1)
    return build_detector(ModelConfig(f"{front_end}_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2))).eval()


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i, n in enumerate(LENGTHS):
        paths.append(tmp_path / f"{i:02}.wav")
        x = 0.2 + 0.1 * rng.standard_normal(n) * np.linspace(0.1, 2, n)  # its mean and level change along it
        soundfile.write(paths[-1], x, 16000, subtype="FLOAT")
    return paths


def one_at_a_time(detector, paths):
    with torch.inference_mode():
        return [detector.score(torch.from_numpy(repeat_pad(load_audio(path), 400))[None]).item() for path in paths]


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("overrides, same", [(LARGE, Wav2Vec2.n_frames), ({}, lambda n: n)])
def test_batches_are_exact(monkeypatch, files, normalize, overrides, same):
    detector = make_detector(monkeypatch, normalize, overrides)
    batches = data_utils.plan_batches(detector.front_end, files, batch_samples=13000)
    assert sorted(index for batch in batches for index in batch) == list(range(len(files)))
    heard = [len(repeat_pad(np.zeros(n), 400)) for n in LENGTHS]
    for batch in batches:
        assert len({same(heard[index]) for index in batch}) == 1
        assert len(batch) == 1 or sum(heard[index] for index in batch) <= 13000 + 320 * len(batch)
    longest = [max(heard[index] for index in batch) for batch in batches]
    assert Wav2Vec2.n_frames(longest[0]) == max(map(Wav2Vec2.n_frames, heard)) and len(batches) < len(files)

    scores, failures, silent = scoring.score_files(detector, files, batch_samples=13000)
    assert not failures and not silent
    expected = one_at_a_time(detector, files)
    assert np.std(expected) > 1e-3  # or the comparison says nothing
    np.testing.assert_allclose([scores[i] for i in range(len(files))], expected, atol=1e-5, rtol=0)
    assert detector.front_end.normalize is normalize


@pytest.mark.slow
@pytest.mark.parametrize("front_end", ["wav2vec2", "WavLM"])
@pytest.mark.parametrize("overrides", [LARGE, {}])
@pytest.mark.parametrize("name, least, most", [("fp32", 0, 1e-5), ("bf16", 1e-5, 0.01)])
def test_a_detector_made_ready_scores_as_before(monkeypatch, files, front_end, overrides, name, least, most):
    detector = make_detector(monkeypatch, True, overrides, front_end)
    with torch.no_grad():
        for parameter in detector.parameters():  # biases start from zero
            parameter.add_(0.05 * torch.randn_like(parameter))
    expected = one_at_a_time(detector, files)
    precision.prepare(detector, name)
    scores, failures, _ = scoring.score_files(detector, files, precision=name)
    differences = [abs(scores[i] - expected[i]) for i in range(len(files))]
    difference = np.sqrt(np.mean(np.square(differences)))  # of bfloat16 the largest is luck
    assert not failures and least <= difference < most < np.std(expected)
    dtypes = {module.weight.dtype for module in detector.modules() if isinstance(module, torch.nn.Conv1d)}
    assert (torch.bfloat16 in dtypes) == (name == "bf16")
    layers = [module for module in detector.modules() if isinstance(module, precision._OneDNNLinear)]
    assert bool(layers) == (name == "fp32" or bool(precision._has_bf16()))


def test_bf16_warns_where_it_is_slow(monkeypatch, capsys):
    for has_bf16, words in [(True, ""), (None, ""), (False, "does not multiply bfloat16")]:
        monkeypatch.setattr(precision, "_has_bf16", lambda has_bf16=has_bf16: has_bf16)
        precision.check_precision("bf16", torch.device("cpu"))
        err = capsys.readouterr().err
        assert words in err and bool(words) == bool(err)


def test_headers_that_lie_change_no_score(monkeypatch, files):
    detector = make_detector(monkeypatch, True, LARGE)
    monkeypatch.setattr(data_utils, "expected_samples", lambda path: 5000)
    assert [len(batch) for batch in data_utils.plan_batches(detector.front_end, files, batch_samples=10**6)] == [18]
    scores, _, _ = scoring.score_files(detector, files, batch_samples=10**6, num_workers=2)
    np.testing.assert_allclose([scores[i] for i in range(18)], one_at_a_time(detector, files), atol=1e-5, rtol=0)


def test_files_without_a_score_and_files_of_zeros(monkeypatch, files, tmp_path):
    detector = make_detector(monkeypatch, True, LARGE)
    soundfile.write(files[3], np.zeros(4000), 16000)
    files[5].write_bytes(b"RIFF")
    files[7] = tmp_path / "absent.wav"
    scores, failures, silent = scoring.score_files(detector, files)
    assert silent == [3] and np.isfinite(scores[3])
    assert sorted(failures) == [5, 7] and "absent.wav" in failures[7] and "05.wav" in failures[5]
    assert sorted([*scores, *failures]) == list(range(len(files)))
    with torch.no_grad():
        detector.back_end.fc.bias.fill_(float("nan"))
    scores, failures, _ = scoring.score_files(detector, files[:2])
    assert not scores and "score is nan" in failures[0]


def test_what_does_not_fit_in_memory_is_halved_then_listed(monkeypatch, files):
    detector = make_detector(monkeypatch, True, LARGE)
    plain = detector.forward

    def small_memory(waveforms, normalized):
        if waveforms.numel() > 9200:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")
        return plain(waveforms, normalized)

    expected = one_at_a_time(detector, files)
    monkeypatch.setattr(detector, "forward", small_memory)
    scores, failures, _ = scoring.score_files(detector, files)
    assert sorted(failures) == [14, 16] and "memory on cpu for 1 s" in failures[14]
    assert all(scores[i] == pytest.approx(expected[i], abs=1e-5) for i in scores)


# ------------------------------------------------------------------------------------------------ eval.py, cut short


@pytest.fixture
def command(monkeypatch, files, tmp_path):
    """Flags of eval.py for the folder of `files`, a batch a trial or two; --eval_output is left to the test."""
    detector = make_detector(monkeypatch, True, {})
    checkpoints.save_checkpoint(tmp_path / "detector.pth", detector.config, detector.state_dict())
    flags = ["--base_dir", str(tmp_path), "--model_path", str(tmp_path / "detector.pth"), "--num_workers", "0"]
    return [*flags, "--batch_samples", "9000"]


def test_scoring_killed_at_any_moment_ends_in_the_same_bytes(command, files, tmp_path, processes):
    files[2].write_bytes(b"RIFF")  # a failure is remembered as well
    out = tmp_path / "s.txt"
    errors = Path(f"{out}.errors.tsv")
    run = {"command": "eval", "flags": [*command, "--eval_output", str(out)]}
    assert processes(run)[0] == [1]
    whole = [path.read_bytes() for path in (out, errors)]
    assert whole[0].count(b"\n") == len(files) - 1
    n_batches = int(re.search(r"(\d+) batches", processes(run)[1])[1])
    # Before each of these batches is written, and at each call by which scores and failures come to the disk.
    for hook, nth in [*(("scored", n) for n in (1, 2, 5, n_batches)), *(("disk", n) for n in range(1, 5))]:
        out.unlink(missing_ok=True)
        statuses, _ = processes({**run, "at": [hook, nth, signal.SIGKILL]})
        assert statuses == [-signal.SIGKILL], (hook, nth)
        statuses, text = processes(run)
        n_done = nth - 1 if hook == "scored" else n_batches
        assert statuses == [1] and (f"{n_done} of {n_batches} batches are done" in text) == (n_done > 0), (hook, nth)
        assert [path.read_bytes() for path in (out, errors)] == whole, (hook, nth)
        assert sorted(tmp_path.glob("s.txt*")) == [out, errors], (hook, nth)


@pytest.mark.slow
def test_a_torn_line_is_scored_again(command, tmp_path, capsys):
    out = tmp_path / "s.txt"
    command = [*command, "--eval_output", str(out)]
    run_id = {}

    class Kept(eval_script.PartialScores):
        def remove(self):  # what a killed run leaves behind
            run_id["content"] = self._path(0).read_bytes()
            super().remove()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval_script, "PartialScores", Kept)
        eval_script.main(command)
    whole, partial = out.read_bytes(), run_id["content"]
    n_batches = partial.count(b"\n") - 1
    for cut in [3, len(partial.splitlines()[0]), len(partial) // 2, len(partial) - 1, len(partial)]:
        out.unlink()
        Path(f"{out}.partial-0").write_bytes(partial[:cut])
        capsys.readouterr()
        assert not eval_script.main(command)
        n_done = max(partial[:cut].count(b"\n") - 1, 0)
        assert (f"{n_done} of {n_batches} batches are done" in capsys.readouterr().out) == (n_done > 0)
        assert out.read_bytes() == whole
    Path(f"{out}.partial-0").write_bytes(partial)
    assert not eval_script.main([*command, "--precision", "bf16"])  # other scores: nothing to go on with
    text = capsys.readouterr().out
    difference = float(re.search(r"scored in float32 as well differ by (\S+) at most", text)[1])
    assert "starting over" in text and 0 < difference < 0.2
    assert out.read_bytes() != whole and list(tmp_path.glob("*partial*")) == []


@pytest.fixture
def cut_short(command, tmp_path):
    """Flags of a scoring run that was cut short after three batches, and its partial scores."""
    command, partial = [*command, "--eval_output", str(tmp_path / "s.txt")], tmp_path / "s.txt.partial-0"
    add = eval_script.PartialScores.add

    def stop(self, number, *scores):
        add(self, number, *scores)
        if len(self.done) == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(eval_script.PartialScores, "add", stop)
        eval_script.main(command)
    assert partial.read_bytes().count(b"\n") == 4
    return command, partial


def rewritten(path):
    path.write_bytes(path.read_bytes()[:-2] + b"ab")  # of the same size


def lengthened(path):
    soundfile.write(path, np.ones(5000) / 2, 16000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, words",
    [
        (rewritten, ["audio files changed, same sizes, other modification times; 1 of 18 are newer", "05.wav"]),
        (lengthened, ["audio files changed, other sizes; 1 of 18 are newer", "05.wav"]),
        (os.remove, ["other trials: 18 before, 17 now"]),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_partial_scores_of_other_data_are_refused_and_kept(cut_short, files, fails, capsys, change, words, rank):
    command, partial = cut_short
    partial = partial.rename(partial.with_name(f"s.txt.partial-{rank}"))
    before = partial.read_bytes()
    change(files[5])
    fails(eval_script.main, command, f"{partial}: ", f"remove {partial} ", *words)
    assert partial.read_bytes() == before and list(partial.parent.glob("s.txt*")) == [partial]
    partial.unlink()
    assert not eval_script.main(command)
    assert "going on" not in capsys.readouterr().out


def test_the_same_trials_in_another_order_are_other_data(cut_short, files, tmp_path, fails, capsys):
    command, partial = cut_short
    partial.unlink()
    lists = [tmp_path / name for name in ("one.csv", "other.csv")]
    for path, rows in zip(lists, (files, files[::-1])):
        path.write_text("path\n" + "".join(f"{file.name}\n" for file in rows))
    flags = ["--protocol", str(lists[0]), "--audio_dir", str(tmp_path), *command[2:]]

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(eval_script, "write_results", stop)
        eval_script.main(flags)
    fails(eval_script.main, [flags[0], str(lists[1]), *flags[2:]], "s.txt.partial-0: ")
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in files:
        shutil.copy2(path, moved)
    capsys.readouterr()
    assert not eval_script.main([*flags[:3], str(moved), *flags[4:]])  # audio may move
    assert "going on with" in capsys.readouterr().out


@pytest.mark.slow
def test_what_else_differs_in_a_run_that_was_cut_short_is_said(cut_short, tmp_path, capsys, monkeypatch):
    command, partial = cut_short
    before = partial.read_bytes()
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert not eval_script.main(command)
    text = capsys.readouterr()
    assert "going on with" in text.out and f"other threads {threads} before, {threads + 1} now:" in text.err
    flag = command.index("--model_path") + 1
    detector = checkpoints.load_detector(command[flag])
    with torch.no_grad():
        next(detector.back_end.parameters()).add_(0.1)
    checkpoints.save_checkpoint(tmp_path / "other.pth", detector.config, detector.state_dict())
    for flags, name in [
        ([*command[:flag], str(tmp_path / "other.pth"), *command[flag + 1 :]], "detector"),
        ([*command, "--batch_samples", "4000"], "plan of batches"),
        ([*command, "--test_mode", "4s"], "plan of batches, test length"),
        ([*command, "--precision", "bf16"], "--precision"),
    ]:
        partial.write_bytes(before)
        eval_script.main(flags)
        assert f"starting over: {partial} is of another {name}\n" in capsys.readouterr().out
    partial.write_bytes(b'{"run": "0123"}\n' + before.partition(b"\n")[2])
    assert not eval_script.main(command)
    text = capsys.readouterr().out
    assert "is of another version of eval.py\n" in text and "going on" not in text


def test_two_runs_into_one_file_are_refused(command, tmp_path, fails):
    out = tmp_path / "s.txt"
    first = eval_script.PartialScores(out, 0, {}, [])
    fails(eval_script.main, [*command, "--eval_output", str(out)], "s.txt: ")
    assert not out.exists()
    first.remove()
    assert not eval_script.main([*command, "--eval_output", str(out)])


def test_scores_and_failures_are_listed_and_zeros_warned_of(command, files, tmp_path, capsys):
    soundfile.write(files[4], np.zeros(5000), 16000)
    files[2].write_bytes(b"RIFF")
    assert eval_script.main([*command, "--eval_output", str(tmp_path / "s.txt")]) == 1
    scores = corpora.read_scores(tmp_path / "s.txt")
    assert list(scores) == [path.stem for path in files if path != files[2]]
    utt_id, why = (tmp_path / "s.txt.errors.tsv").read_text().rstrip("\n").split("\t")
    assert utt_id == "02" and "02.wav" in why
    text = capsys.readouterr().err
    assert "warning: 1 trials contain only zeros, first 04" in text and "1 of 18 trials have no score" in text


def test_two_processes_share_the_batches(command, files, tmp_path, processes):
    files[2].write_bytes(b"RIFF")
    out = tmp_path / "s.txt"
    run = {"command": "eval", "flags": [*command, "--eval_output", str(out)]}
    assert processes(run)[0] == [1]
    alone = [path.read_bytes() for path in (out, Path(f"{out}.errors.tsv"))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # as torchrun does
    ranks = [{**run, "env": {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}} for rank in range(2)]
    statuses, text = processes(*ranks)
    assert statuses == [1, 0] and "2 processes" in text, text
    assert [path.read_bytes() for path in (out, Path(f"{out}.errors.tsv"))] == alone
    assert not list(tmp_path.glob("*partial*"))


def test_batch_norm_by_utterance_scores_one_at_a_time_in_training_mode(command, files, tmp_path):
    out = tmp_path / "scores.txt"
    # Files of one frame have no statistics over time: they are listed, not scored.
    assert eval_script.main([*command, "--eval_output", str(out), "--batch_norm", "utterance"]) == 1
    detector = checkpoints.load_detector(command[command.index("--model_path") + 1])
    scores = corpora.read_scores(out)
    failed = [line.split("\t")[0] for line in out.with_name(f"{out.name}.errors.tsv").read_text().splitlines()]
    assert sorted([*scores, *failed]) == sorted(path.stem for path in files)
    waveforms = {path.stem: repeat_pad(load_audio(path), 400) for path in files}
    assert sorted(failed) == [name for name, x in waveforms.items() if Wav2Vec2.n_frames(len(x)) == 1]
    detector.train()  # neither the tiny encoder nor Nes2Net drops anything out
    for name, score in scores.items():
        assert score == pytest.approx(detector.score(torch.from_numpy(waveforms[name])[None]).item(), abs=1e-5)
