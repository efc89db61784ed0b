"""How much of an utterance eval.py scores, and what says so: flags, back-end, checkpoint, corpus."""

import numpy as np
import pytest
import soundfile
import torch
from conftest import speech_like

import checkpoints
import corpora
import eval as scoring
from data_utils import load_audio
from model import ModelConfig, build_detector

SECONDS = {"long": 5, "short": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two recordings as In-the-Wild and as ASVspoof 2021 DF."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    (folder / "ASVspoof2021_DF_eval" / "flac").mkdir(parents=True)
    (folder / "ASVspoof2021.DF.cm.eval.trl.txt").write_text("long\nshort\n")
    (folder / "wild").mkdir()
    for name, seconds in SECONDS.items():
        x = speech_like(rng, seconds)
        soundfile.write(folder / "wild" / f"{name}.wav", x, 16000)
        soundfile.write(folder / "ASVspoof2021_DF_eval" / "flac" / f"{name}.flac", x, 16000)  # rounds otherwise
    return folder


def checkpoint(folder, back_end, crop):
    path = folder / f"{back_end}_{crop}.pth"
    if not path.exists():
        torch.manual_seed(0)
        detector = build_detector(ModelConfig(f"wav2vec2_{back_end}", ssl="tiny"))
        facts = {"crop": crop} if crop else {}
        checkpoints.save_checkpoint(path, detector.config, detector.state_dict(), **facts)
    return path


WILD, DF, ANY = "in_the_wild", "DF", None


@pytest.mark.slow
@pytest.mark.parametrize(
    "back_end, crop, track, flags, expected, source",
    [
        # As published, whatever the corpus; a checkpoint that says their crop changes nothing.
        ("TCM", None, DF, [], 66_800, "as the authors of TCM score"),
        ("TCM", 66_800, WILD, [], 66_800, "as the authors of TCM score"),
        ("Conformer", None, ANY, [], 66_800, "as the authors of Conformer score"),
        ("Mamba", None, DF, [], 66_800, "as the authors of Mamba score"),
        ("Mamba", 66_800, WILD, [], 64_600, "as the authors of Mamba score"),
        ("SLS", None, WILD, [], 64_600, "as the authors of SLS score"),
        ("SLS", 64_600, DF, [], 64_600, "as the authors of SLS score"),
        # Trained otherwise.
        ("TCM", 20_000, DF, [], 20_000, "as TCM was trained"),
        ("Mamba", 20_000, WILD, [], 20_000, "as Mamba was trained"),
        # The flags come first.
        ("TCM", 20_000, DF, ["--test_protocol", "4sec"], 64_600, "--test_protocol 4sec"),
        ("Mamba", None, WILD, ["--test_mode", "full"], None, "--test_mode full"),
        ("SLS", None, WILD, ["--cut", "30000"], 30_000, "--cut"),
        # The others score as ever: their crop says nothing.
        ("GF", 20_000, DF, [], 64_600, "the default of --track DF"),
        ("GF", 20_000, WILD, [], None, "the default of --track in_the_wild"),
        ("GF", 20_000, ANY, [], None, "the default of a list or folder"),
        ("GF", None, WILD, ["--test_mode", "4s"], 64_000, "--test_mode 4s"),
        ("GF", None, ANY, ["--cut", "70000"], 70_000, "--cut"),
    ],
)
def test_scores_are_those_of_so_many_samples(back_end, crop, track, flags, expected, source, folder, tmp_path, output):
    path, out = checkpoint(folder, back_end, crop), tmp_path / "scores.txt"
    data = {
        WILD: ["--track", "in_the_wild", "--in_the_wild_path", str(folder / "wild")],
        DF: ["--track", "DF", "--database_path", str(folder)],
        ANY: ["--base_dir", str(folder / "wild")],
    }[track]
    command = [*data, "--model_path", str(path), "--eval_output", str(out), "--num_workers", "0", *flags]
    text = output(scoring.main, command)
    what = f"first {expected} samples" if expected else "whole utterances"
    assert f"trials: 2, {what} ({source}), " in text
    detector = checkpoints.load_detector(path)
    for name, score in corpora.read_scores(out).items():
        place = folder / "ASVspoof2021_DF_eval" / "flac" if track == DF else folder / "wild"
        x = load_audio(place / f"{name}.{'flac' if track == DF else 'wav'}")
        x = torch.from_numpy(np.resize(x, expected) if expected else x)  # numpy's resize repeats from the start
        with torch.inference_mode():
            assert score == pytest.approx(detector.score(x[None]).item(), abs=1e-5)


def test_a_run_and_its_average_keep_the_crop(finished_run, tmp_path):
    paths = [finished_run / "checkpoints" / f"epoch_{epoch}.pth" for epoch in (1, 2)]
    for path in (*paths, finished_run / "checkpoints" / "average_best_2.pth"):
        assert checkpoints.read_checkpoint(path)["crop"] == checkpoints.load_detector(path).crop == 8000
    checkpoints.average_to(tmp_path / "a.pth", paths)
    assert checkpoints.load_detector(tmp_path / "a.pth").crop == checkpoints.load_average(paths).crop == 8000


def test_mistakes(folder, tmp_path, fails, capsys):
    path = str(checkpoint(folder, "GF", None))
    flags = ["--base_dir", str(folder / "wild"), "--model_path", path, "--eval_output", str(tmp_path / "s.txt")]
    fails(scoring.main, [*flags, "--cut", "300"], "--cut", "400 samples", "300")
    with pytest.raises(SystemExit):
        scoring.parse_args([*flags, "--cut", "64600", "--test_mode", "full"])
    assert "not allowed with argument" in capsys.readouterr().err
    content = checkpoints.read_checkpoint(path)
    torch.save({**content, "crop": "all"}, tmp_path / "a.pth")
    fails(scoring.main, [*flags[:2], "--model_path", str(tmp_path / "a.pth"), *flags[4:]], "a.pth", "crop")
