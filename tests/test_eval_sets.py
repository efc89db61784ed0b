"""eval.py --sets: many sets in one call, each as a call of its own would score it."""

import os
import shlex
import signal
import socket

import numpy as np
import pytest
import soundfile

import checkpoints
import corpora
import EER_minDCF
import eval as scoring
from inference.partial_scores import PartialScores

NAMES = ("one", "LA", "wild")
LENGTHS = {"one": [4000, 4100, 9000, 400, 12345], "LA": [5000, 16000, 70000], "wild": [8000, 8001, 3000, 20000]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three sets: a bare table, a key of ASVspoof 2021 LA around which its audio lies, In-the-Wild's meta.csv."""
    base, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    audio = {"one": base / "one", "LA": base / "ASVspoof2021_LA_eval" / "flac", "wild": base / "release_in_the_wild"}
    keys = {"one": base / "one.csv", "LA": base / "keys" / "LA" / "CM" / "trial_metadata.txt"}
    keys["wild"] = audio["wild"] / "meta.csv"
    lines = {
        "one": ["path,label", *(f"one_{i},{'spoof' if i % 2 else 'bonafide'}" for i in range(5))],
        "LA": [f"S LA_{i} alaw ita_tx A07 {'spoof' if i % 2 else 'bonafide'} notrim eval" for i in range(3)],
        "wild": ["file,speaker,label", *(f"wild_{i}.wav,S,{'spoof' if i % 2 else 'bona-fide'}" for i in range(4))],
    }
    for name in NAMES:
        audio[name].mkdir(parents=True)
        keys[name].parent.mkdir(parents=True, exist_ok=True)
        keys[name].write_text("\n".join(lines[name]) + "\n")
        for i, n in enumerate(LENGTHS[name]):
            soundfile.write(audio[name] / f"{name}_{i}.wav", 0.3 * rng.standard_normal(n), 16000)
    return base


def table(path, folder, systems=None, **cells):
    """Write the table of the three sets. systems: {title: folder of its score files}; cells: {set: {column: cell}}."""
    rows = {
        "one": {"name": "one", "key": folder / "one.csv", "audio_dir": folder / "one"},
        "LA": {"name": "LA", "key": folder / "keys" / "LA" / "CM" / "trial_metadata.txt", "audio_dir": ""},
        "wild": {"name": "wild", "key": folder / "release_in_the_wild" / "meta.csv", "audio_dir": ""},
    }
    for name, row in rows.items():
        row |= {title: place / f"{name}.txt" for title, place in (systems or {}).items()} | cells.get(name, {})
    lines = [",".join(rows["one"]), *(",".join(map(str, row.values())) for row in rows.values())]
    path.write_text("\n".join(lines) + "\n")
    return path


def command(untrained, sets, *flags):
    return ["--sets", str(sets), "--model_path", str(untrained), "--num_workers", "0", *map(str, flags)]


def single_calls(folder, untrained, out, *flags):
    """The same by a call a set. Returns {name: bytes}."""
    data = {
        "one": ["--protocol", folder / "one.csv", "--audio_dir", folder / "one"],
        "LA": ["--protocol", folder / "keys" / "LA" / "CM" / "trial_metadata.txt"],
        "wild": ["--protocol", folder / "release_in_the_wild" / "meta.csv"],
    }
    if "--cut" not in flags:
        data["LA"] += ["--cut", 64_600]  # the default of --track LA, not that of any list
    common = ["--model_path", untrained, "--num_workers", 0, *flags]
    for name in NAMES:
        scoring.main([*map(str, [*data[name], *common, "--eval_output", out / f"{name}.txt"])])
    return read(out)


def read(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def expected(folder, untrained, tmp_path_factory):
    """The score files of three calls, a batch of few files each."""
    return single_calls(folder, untrained, tmp_path_factory.mktemp("single"), "--batch_samples", 9000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [[], ["--cut", 6000], ["--precision", "bf16"], ["--batch_norm", "utterance"], ["--batch_size", 2]],
)
def test_each_set_as_by_a_call_of_its_own(folder, untrained, tmp_path, monkeypatch, capsys, flags):
    loads, load = [], checkpoints.load_detector
    expected = single_calls(folder, untrained, tmp_path / "single", *flags)
    monkeypatch.setattr(checkpoints, "load_detector", lambda *args, **more: loads.append(1) or load(*args, **more))
    capsys.readouterr()
    sets = table(tmp_path / "sets.csv", folder)
    failed = flags == ["--batch_norm", "utterance"]  # of the file of one frame
    assert scoring.main(command(untrained, sets, "--output_path", tmp_path / "out", *flags)) == failed
    assert read(tmp_path / "out") == expected and len(loads) == 1
    text = capsys.readouterr().out
    for name in NAMES:
        assert f"{name}: trials: {len(LENGTHS[name])}, " in text
        assert (
            f"{name}: scores: {tmp_path / 'out' / name}.txt, {len(LENGTHS[name]) - (failed and name == 'one')}" in text
        )
        assert f"{name}: bf16: " in text or "bf16" not in flags
    if not flags:
        assert "one: trials: 5, whole utterances (the default of a list or folder), " in text
        assert "LA: trials: 3, first 64600 samples (the default of ASVspoof2021_LA), " in text
        assert "wild: trials: 4, whole utterances (the default of in_the_wild), " in text


def test_a_file_that_cannot_be_read_is_of_its_set_alone(folder, untrained, expected, tmp_path, capsys):
    copy = tmp_path / "one"
    copy.mkdir()
    for path in (folder / "one").iterdir():
        (copy / path.name).write_bytes(b"RIFF" if path.stem == "one_2" else path.read_bytes())
    sets, out = table(tmp_path / "sets.csv", folder, one={"audio_dir": copy}), tmp_path / "out"
    assert scoring.main(command(untrained, sets, "--output_path", out, "--batch_samples", 9000)) == 1
    assert (out / "one.txt.errors.tsv").read_text().startswith("one_2\t")
    assert list(corpora.read_scores(out / "one.txt")) == ["one_0", "one_1", "one_3", "one_4"]
    assert {name: content for name, content in read(out).items() if "one" not in name} == {
        name: content for name, content in expected.items() if "one" not in name
    }
    assert "1 of 5 trials have no score, see" in capsys.readouterr().err


@pytest.mark.parametrize(
    "systems, flags, place",
    [
        ({"scores": "a"}, [], "a"),
        ({"A": "a"}, ["--outputname", "A"], "a"),
        ({"A": "a", "b c": "b"}, ["--outputname", "b c"], "b"),
    ],
)
def test_the_table_names_the_score_files(folder, untrained, expected, tmp_path, systems, flags, place):
    sets = table(tmp_path / "sets.csv", folder, {title: tmp_path / name for title, name in systems.items()})
    assert not scoring.main(command(untrained, sets, "--batch_samples", 9000, *flags))
    assert read(tmp_path / place) == expected
    assert {path.name for path in tmp_path.iterdir()} == {"sets.csv", place}


def test_the_report_that_is_named_works(folder, untrained, tmp_path, capsys):
    sets = table(tmp_path / "the sets.csv", folder, {"A": tmp_path / "a", "B": tmp_path / "b"})
    flags = command(untrained, sets, "--batch_samples", 9000, "--outputname")
    assert not scoring.main([*flags, "A"])
    assert "report: " not in capsys.readouterr().out  # the scores of B are yet to be made
    assert not scoring.main([*flags, "B"])
    python, script, *flags = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("report: "))
    assert (python, script) == ("python", "EER_minDCF.py")
    assert not EER_minDCF.main(flags)
    text = capsys.readouterr().out
    for name in (*NAMES, "macro mean"):
        rows = [line.removeprefix(name).split() for line in text.splitlines() if line.startswith(f"{name} ")]
        assert [row[0] for row in rows[:2]] == ["A", "B"]


def test_subsets_of_a_key_share_a_score_file(folder, untrained, expected, tmp_path, capsys):
    key = folder / "keys" / "LA" / "CM" / "trial_metadata.txt"
    sets, out = tmp_path / "sets.csv", tmp_path / "scores.txt"
    sets.write_text(f"name,key,subset,scores\neval,{key},eval,{out}\nhidden,{key},hidden,{out}\n")
    assert not scoring.main(command(untrained, sets, "--batch_samples", 9000))
    assert out.read_bytes() == expected["LA.txt"]
    assert capsys.readouterr().out.count("eval, hidden: scores: ") == 1


MISTAKES = [
    ({"wild": {"audio_dir": "EMPTY"}}, [], ["wild: ", "4 of 4 trials have no audio file"]),
    ({"wild": {"key": "LOST"}}, [], ["LOST", "does not exist"]),
    ({"wild": {"key": "LIST"}}, [], ["wild: ", "list.txt: audio not found"]),
    ({"wild": {"name": "a/b"}}, [], ["the column name: expected the name of a file, found a/b"]),
    ({"wild": {"name": ".."}}, [], ["the column name: expected the name of a file, found .."]),
    ({"wild": {"name": "x" * 300}}, [], ["cannot be written: File name too long"]),
    ({}, ["--outputname", "A"], ["--outputname A: expected a column of score files in ", "has none"]),
    ({}, ["--eval_output", "x.txt"], ["--eval_output is of one set"]),
    ({}, ["--audio_dir", "x"], ["--audio_dir is of one set"]),
    ({}, ["--base_dir", "x"], ["expected one of --base_dir, --track, --protocol and --sets"]),
    ({}, ["--cut", "300"], ["--cut: expected at least 400 samples"]),
]


@pytest.mark.parametrize("cells, flags, words", MISTAKES)
def test_mistakes_are_said_before_anything_is_scored(folder, untrained, tmp_path, fails, cells, flags, words):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "list.txt").write_text("nobody\n")
    places = {"EMPTY": tmp_path / "EMPTY", "LOST": tmp_path / "LOST", "LIST": tmp_path / "list.txt"}
    cells = {name: {title: places.get(cell, cell) for title, cell in row.items()} for name, row in cells.items()}
    sets = table(tmp_path / "sets.csv", folder, **cells)
    fails(scoring.main, command(untrained, sets, "--output_path", tmp_path / "out", *flags), *words)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_outputs_that_collide_are_refused(folder, untrained, tmp_path, fails):
    systems = {"A": tmp_path / "a", "B": tmp_path / "b"}
    key = (folder / "one.csv").read_bytes()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link.txt").symlink_to("wild.txt")
    for flags, cells, words in [
        ([], {}, ["--outputname", "A, B"]),
        (["--outputname", "C"], {}, ["--outputname C: expected a column of score files in", "has A, B"]),
        (["--outputname", "B"], {"LA": {"B": tmp_path / "b" / "link.txt"}}, ["wild: scores", "found the same file"]),
        (["--outputname", "B"], {"LA": {"B": folder / "one.csv"}}, ["LA: scores", "found the input "]),
        (["--outputname", "B"], {"LA": {"B": folder / "one" / "one_0.wav"}}, ["LA: scores", "found the input "]),
        (["--outputname", "B"], {"LA": {"B": tmp_path / "sets.csv"}}, ["LA: scores", "found the input "]),
        (["--outputname", "B"], {"LA": {"B": untrained}}, ["LA: scores", "found the input "]),
    ]:
        fails(scoring.main, command(untrained, table(tmp_path / "sets.csv", folder, systems, **cells), *flags), *words)
    assert (folder / "one.csv").read_bytes() == key
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["link.txt"] and not (tmp_path / "a").exists()


def batches(text):
    """{set: number of its batches}, as eval.py prints them."""
    lines = [line.split(": trials: ") for line in text.splitlines() if ": trials: " in line]
    return {name: int(rest.split(" batches")[0].rsplit(" ", 1)[1]) for name, rest in lines}


@pytest.fixture
def killed(folder, untrained, tmp_path, processes):
    """killed(hook, nth): the flags of a call that was killed there, in a folder of its own."""

    def call(hook, nth):
        out = tmp_path / f"{hook}{nth}"
        sets = table(tmp_path / "sets.csv", folder)
        flags = command(untrained, sets, "--output_path", out, "--batch_samples", 9000)
        statuses, log = processes({"command": "eval", "flags": flags, "at": [hook, nth, signal.SIGKILL]})
        assert statuses == [-signal.SIGKILL], log
        return flags, out

    return call


def resumed(flags, out, monkeypatch, capsys):
    """Go on with a call that was killed. Returns its output and how many batches it scored."""
    added, add = [], PartialScores.add
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(PartialScores, "add", lambda self, *rest: added.append(self.out.name) or add(self, *rest))
        assert not scoring.main(flags)
    return capsys.readouterr().out, added


def test_killed_within_and_between_sets_it_goes_on_where_it_was(killed, expected, monkeypatch, capsys):
    n = None
    for hook, nth in [("scored", 1), ("scored", 3), ("scored", 6), ("scored", 8), *(("disk", i) for i in range(1, 7))]:
        flags, out = killed(hook, nth)
        before = read(out)
        done = {name: max(before.get(f"{name}.txt.partial-0", b"").count(b"\n") - 1, 0) for name in NAMES}
        text, added = resumed(flags, out, monkeypatch, capsys)
        n = n or batches(text)
        assert read(out) == expected, (hook, nth)
        assert {name: added.count(f"{name}.txt") for name in NAMES} == {name: n[name] - done[name] for name in NAMES}
        if hook == "scored":  # killed when it was about to write the nth batch
            assert sum(done.values()) == nth - 1
        for name in NAMES:
            assert (f"{name}: going on with " in text) == (done[name] > 0)
    assert n["one"] >= 3 and n["LA"] == 3  # so the moments above are in every set


def test_another_detector_scores_finished_sets_again_and_says_so(killed, folder, untrained, tmp_path, fails, capsys):
    flags, out = killed("disk", 5)  # in the third set's score file
    partial = out / "one.txt.partial-0"
    before = read(out)
    detector = checkpoints.load_detector(untrained)
    state = detector.state_dict()
    state["back_end.fc.bias"] += 1
    other = tmp_path / "other.pth"
    checkpoints.save_checkpoint(other, detector.config, state)
    flags[flags.index("--model_path") + 1] = str(other)
    # A refusal, of the last set for its own reason, takes nothing from the others.
    times = {path: os.stat(path).st_mtime_ns for path in (folder / "release_in_the_wild").glob("*.wav")}
    try:
        for path in times:
            os.utime(path, ns=(0, 10**18))
        fails(scoring.main, flags, "wild.txt.partial-0: ")
    finally:
        for path, time in times.items():
            os.utime(path, ns=(0, time))
    assert read(out) == before
    assert not scoring.main(flags)
    assert f"one: starting over: {partial} is of another detector" in capsys.readouterr().out
    single = single_calls(folder, other, tmp_path / "single", "--batch_samples", 9000)
    assert read(out) == single and single["one.txt"] != before["one.txt"]


def test_two_processes_and_one_that_goes_on_alone(
    folder, untrained, expected, tmp_path, processes, monkeypatch, capsys
):
    sets = table(tmp_path / "sets.csv", folder)

    def two(out, **more):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        flags = command(untrained, sets, "--output_path", out, "--batch_samples", 9000)
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        runs = [{"command": "eval", "flags": flags, "env": environment | rank, **more} for rank in ranks]
        return flags, *processes(*runs)

    _, statuses, log = two(tmp_path / "whole")
    assert statuses == [0, 0] and "2 processes" in log
    assert read(tmp_path / "whole") == expected

    out = tmp_path / "killed"
    flags, statuses, log = two(out, at=["scored", 3, signal.SIGKILL])
    assert -signal.SIGKILL in statuses  # the other may have seen its end before it came to its own
    done = [content.count(b"\n") - 1 for name, content in read(out).items() if ".partial-" in name and content]
    text, added = resumed(flags, out, monkeypatch, capsys)
    assert sum(done) >= 3 and len(added) == sum(batches(text).values()) - sum(done)
    assert read(out) == expected
