"""Chains of augmentations: the text of --augment, its folders, its randomness, and a training with one."""

import json
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import waveforms_of_batches
from test_codecs import speech_like
from test_noise import write

import train
from augmentation import AUGMENTATIONS, codecs
from augmentation.chain import build, listing, parse, short_name, without_folders
from augmentation.fir import apply_fir
from augmentation.musan_rir import MusanRir
from common.console import UserError
from corpora import Trial
from data_utils import TrialDataset, make_loader
from RawBoost import ALGORITHMS, RawBoostParams, apply_rawboost
from training.config import TrainingConfig

CHAIN = (
    'noise:p=0.5,snr=3..9,dir="{}" codec:p=0.6,kinds=mp3+mulaw,bitrate=32 speed:p=0.5 zero:p=0.5 RawBoost:p=0.5,algo=5'
)


def test_a_text_says_parts_probabilities_and_values():
    parts = parse(
        "noise:p=0.25,snr=0..15,files=2,dir='/my folder/x'  codec:kinds=mp3+opus,bitrate=16..64 RawBoost:algo=4"
    )
    assert [(part.name, part.p, part.settings) for part in parts] == [
        ("noise", 0.25, {"snr": (0.0, 15.0), "files": (2, 2), "dir": "/my folder/x"}),
        ("codec", 1.0, {"kinds": ("mp3", "opus"), "bitrate": (16.0, 64.0)}),
        ("RawBoost", 1.0, {"algo": 4}),
    ]
    assert parse("speed:factors=0.8+1+1.25 clip:level=0.7")[0].settings == {"factors": (0.8, 1.0, 1.25)}
    assert short_name("noise:dir=/a/b FIR-NB:p=0.1") == "noise+FIR-NB"


@pytest.mark.parametrize(
    "text, words",
    [
        ("nois", "--augment: expected one of RawBoost, .*, found nois; did you mean noise\\?"),
        ("rawboost", "; did you mean RawBoost\\?"),
        ("", "--augment: expected one or more of .*, found none"),
        (
            "noise codec:kind=mp3",
            "--augment codec: expected one of p, kinds, bitrate, found kind; did you mean kinds\\?",
        ),
        ("zero:Chunk=3", "--augment zero: expected one of p, chunks, samples, found Chunk; did you mean chunks\\?"),
        ("codec:kinds", "--augment codec: expected KEY=VALUE, found kinds"),
        ("codec:", "--augment codec: expected KEY=VALUE, found none"),
        ("codec:p=0.5,", "--augment codec: expected KEY=VALUE, found none"),
        ("codec:p=1.5", "--augment codec: p: expected a number from 0 to 1, found 1.5"),
        ("codec:p=0.5,p=0.6", "--augment codec: expected p once"),
        ("codec:kinds=mp3,kinds=gsm", "--augment codec: expected kinds once"),
        ("codec:bitrate=8..x", "--augment codec: bitrate: expected a finite number, found x"),
        ("codec:bitrate=64..8", "--augment codec: bitrate: expected LOWEST..HIGHEST or a number, found 64..8"),
        ("codec:bitrate=8..16..32", "--augment codec: bitrate: expected LOWEST..HIGHEST or a number, found 8..16..32"),
        ("zero:chunks=1.5", "--augment zero: chunks: expected a finite whole number, found 1.5"),
        ("RawBoost:algo=x", "--augment RawBoost: algo: expected a finite whole number, found x"),
        ("RawBoost:fs=8000", "--augment RawBoost: expected one of p, .*, found fs"),
        ("noise:dir='a", "--augment: No closing quotation in noise:dir='a"),
        ("codec;clip", "found codec;clip"),
        ("codec:p=nan", "p: expected a number from 0 to 1, found nan"),
    ],
)
def test_a_text_that_is_wrong_is_named_with_what_was_meant(text, words):
    with pytest.raises(UserError, match=words):
        parse(text)


@pytest.mark.parametrize(
    "text, words",
    [
        ("codec:kinds=mp4", "--augment codec: kind must be one of mp3, .*, found mp4"),
        ("codec:kinds=vorbis,bitrate=8..16", "--augment codec: bitrate of vorbis: expected 24 to 100"),
        ("RawBoost:algo=12", "--augment RawBoost: algo must be one of 0, .*, found 12"),
        ("RawBoost:algo=4,SNRmin=50", "--augment RawBoost: SNRmin must be at most SNRmax, found 50.0 and 40"),
        ("noise", "--augment noise: dir: expected a folder of recordings, .* --noise_dir, found none"),
        ("noise:dir=/no/where", "--augment noise: /no/where: expected recordings .*, found no such folder"),
        ("room:dir=/no/where", "--augment room: /no/where: expected recordings"),
        ("clip:level=0.5..3", "--augment clip: level: expected LOWEST..HIGHEST within 0.01..1, found 0.5..3.0"),
        ("MUSAN_RIR", "--noise_dir: expected a folder of recordings for --augment MUSAN_RIR"),
    ],
)
def test_values_and_folders_are_checked_before_anything_is_augmented(text, words):
    with pytest.raises(UserError, match=words):
        build(text, {})


def test_a_codec_that_libsndfile_lacks_is_an_error_before_training(monkeypatch):
    monkeypatch.setattr(codecs.soundfile, "check_format", lambda container, subtype: subtype != "GSM610")
    build("codec:kinds=mp3", {})
    with pytest.raises(UserError, match="--augment codec: this libsndfile, .*, has no gsm"):
        build("codec", {})


def test_parts_follow_each_other_with_their_probabilities():
    """Of 1,000 draws, the counts of both parts and their order."""
    x = np.linspace(-1, 1, 400)
    augment = build("clip:p=0.3,level=0.5 zero:p=0.6,chunks=1,samples=100", {})
    counts = Counter()
    for seed in range(1000):
        y = augment(x, np.random.default_rng(seed))
        counts[np.abs(y).max() <= 0.5, bool(np.sum(y == 0) > 50)] += 1
    for clipped in (True, False):
        for zeroed in (True, False):
            p = (0.3 if clipped else 0.7) * (0.6 if zeroed else 0.4)
            assert abs(counts[clipped, zeroed] - 1000 * p) < 4 * np.sqrt(1000 * p * (1 - p)), counts
    twice = build("clip:level=0.5 clip:level=0.5", {})(x, np.random.default_rng(0))
    assert np.abs(twice).max() == 0.25
    assert build("clip:p=0", {})(x, np.random.default_rng(0)) is x


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_published_values_give_the_bits_they_gave(algo, folders):
    x = speech_like(3000)
    config = TrainingConfig.of_corpus("ASVspoof2019_LA", algo=algo, SNRmin=12.0)
    seed = algo  # a different draw for each
    for augment, expected in [
        (train.choose_augmentation(config), apply_rawboost(x, algo, config, np.random.default_rng(seed))),
        (
            build(f"RawBoost:algo={algo}", {"algo": 5, "SNRmin": 12.0}),
            apply_rawboost(x, algo, config, np.random.default_rng(seed)),
        ),
        (build("FIR-NB", {}), apply_fir(x, "FIR-NB", np.random.default_rng(seed))),
        (build("FIR-WB", vars(config)), apply_fir(x, "FIR-WB", np.random.default_rng(seed))),
        (build("MUSAN_RIR", folders), MusanRir(**folders)(x, np.random.default_rng(seed))),
    ]:
        np.testing.assert_array_equal(augment(x, rng=np.random.default_rng(seed)), expected)


def test_flags_are_the_values_that_a_part_is_not_given(folders):
    _, noise = build("noise", folders).parts[0]
    assert noise.files() == {"noise_dir": MusanRir(**folders).files()["noise_dir"]}
    _, boost = build("RawBoost:SNRmax=30", {"algo": 3, "SNRmin": 15.0, "loss": "CCE"}).parts[0]
    assert (boost.algo, boost.SNRmin, boost.SNRmax, boost.nBands) == (3, 15, 30, RawBoostParams().nBands)
    # Only flags of augmentation count: the key loss of packet_loss is not --loss.
    config = TrainingConfig.of_corpus("ASVspoof2019_LA", augment="packet_loss", loss="weighted_CCE")
    assert train.choose_augmentation(config).parts[0][1].loss == (0.01, 0.1)


def test_the_files_of_all_folders_of_a_chain_are_told_apart(folders):
    rooms, noises = folders["room_dir"], folders["noise_dir"]
    found = build(f"room:dir={rooms} noise:dir={noises}/speech MUSAN_RIR clip", folders).files()
    assert {name: len(paths) for name, paths in found.items()} == {
        **{"room_dir": 1, "noise_dir": 4, "noise_dir_2": 6, "room_dir_2": 1}
    }
    assert without_folders(f"noise:dir={noises},snr=3") == without_folders("noise:snr=3..3,dir=/elsewhere")
    assert without_folders("noise:snr=3") != without_folders("noise:snr=4")


def test_the_list_names_every_part_its_keys_and_defaults(output, capsys):
    with pytest.raises(SystemExit) as ended:
        train.main(["--augment", "list"])
    assert not ended.value.code
    text = capsys.readouterr().out
    assert text == "\n".join(listing()) + "\n"
    for name in AUGMENTATIONS:
        assert f"\n{name}\n" in text or f"\n{name}  " in text
    for words in (
        "codec  kinds=mp3+vorbis+opus+mulaw+alaw+gsm+g721+ima_adpcm, bitrate=8..128",
        "noise  dir, snr, files",
        "zero  chunks=1..10, samples=100..1000",
        "speed  factors=0.9+1+1.1",
        "algo=5",
        "Tak et al.",
        "Allen and Berkley",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 120


def test_batches_of_a_chain_do_not_depend_on_the_workers(folders, tmp_path):
    rng = np.random.default_rng(0)
    trials = []
    for i in range(24):
        path = write(tmp_path / f"{i}.wav", speech_like(rng.integers(1000, 5000), seed=i))
        trials.append(Trial(str(i), label=i % 2, path=str(path)))
    augment = build(CHAIN.format(folders["noise_dir"]) + " room:p=0.5,t60=0.1..0.2", {})

    dataset = TrialDataset(trials, 2000, "random", augment, 5)
    expected = waveforms_of_batches(dataset, num_workers=0)
    assert len(expected) == 6
    for found, batch in zip(waveforms_of_batches(dataset, num_workers=4), expected, strict=True):
        np.testing.assert_array_equal(found, batch)
    plain = [x.numpy() for x, *_ in make_loader(TrialDataset(trials, 2000, "random", None, 5), 4, True, 5)]
    assert not any(np.array_equal(a, b) for a, b in zip(plain, expected))


def test_a_run_with_a_chain_goes_on_within_an_epoch_to_the_same_bits(folders, tmp_path, train_flags, processes, fails):
    """The run is stopped after a step of its second epoch; then the recordings move, and another worker reads them."""
    chain = CHAIN.format(folders["noise_dir"])
    command = [*train_flags, "--epochs", "2", "--schedule", "constant", "--resume", "auto"]
    logs = {name: str(tmp_path / "logs" / name) for name in ("whole", "stopped")}
    runs = {name: [*command, "--log_dir", logs[name], "--foldername", "run"] for name in logs}
    (status,), text = processes({"flags": [*runs["whole"], "--augment", chain]})
    assert status == 0, text
    stopped = {"flags": [*runs["stopped"], "--augment", chain, "--num_workers", "2"], "at": ["step", 6, signal.SIGTERM]}
    (status,), text = processes(stopped)
    assert status == 143 and "in epoch 2 after 2 batches" in text, text

    (tmp_path / "noise").rename(tmp_path / "moved")
    moved = CHAIN.format(tmp_path / "moved")
    (status,), text = processes({"flags": [*runs["stopped"], "--augment", moved]})
    assert status == 0 and "resumed after epoch 1 and 2 batches" in text, text
    weights = [torch.load(next(Path(logs[name]).rglob("epoch_2.pth")), weights_only=True)["model"] for name in logs]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    (folder,) = Path(logs["whole"], "run").iterdir()
    settings = json.loads((folder / "config.json").read_text())
    assert settings["training"]["augment"] == chain and settings["data"]["noise_dir"]["trials"] == 6
    again = [*runs["whole"], "--epochs", "3", "--augment"]
    fails(train.main, [*again, moved.replace("snr=3..9", "snr=3..10")], "--augment: the run in ", "snr=3..10")
    write(tmp_path / "moved" / "noise" / "other.wav", speech_like(100))
    fails(train.main, [*again, moved], "noise_dir data: other trials: 6 before, 7 now")


def test_mistakes_in_a_chain_end_a_training_in_one_line(tmp_path, train_flags, fails):
    command = [*train_flags, "--log_dir", str(tmp_path / "logs"), "--foldername", "run", "--augment"]
    fails(train.main, [*command, "clipp"], "--augment: expected one of ", "found clipp; did you mean clip?")
    fails(train.main, [*command, "noise:dir=/no/where"], "--augment noise: /no/where: expected recordings")
    words = "--augment speed: moves what --labels frames has labels of"
    fails(train.main, [*command, "clip speed", "--labels", "frames"], words)
    assert not (tmp_path / "logs").exists()
