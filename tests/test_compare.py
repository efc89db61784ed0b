import csv
import json
import re
import shutil

import pytest
import torch

import checkpoints
import train
from model import ModelConfig, build_detector, count_parameters
from tools import compare


def test_the_flags_of_every_run_are_those_of_train():
    flags = ["--database_path", "x", "--model_name", "wav2vec2_SLS", *map(str, compare.FLAGS)]
    config, _ = train.parse_args(flags)
    assert (config.batch_size, config.crop, config.average_best) == (compare.BATCH, compare.CROP, compare.AVERAGED)
    assert train.choose_loss(config.loss, ModelConfig("wav2vec2_SLS").n_output_logits) == "weighted_CCE"


def test_what_is_trained_is_scored_reported_and_timed(tmp_path, corpus, finished_run, monkeypatch, output):
    """Two systems that count as trained already: nothing is trained twice."""
    monkeypatch.setattr(compare, "AVERAGED", 2)
    for name in ("Nes2Net_X", "GF"):
        shutil.copytree(finished_run, tmp_path / "logs" / name / "run")
    path = tmp_path / "logs" / "GF" / "run" / "checkpoints" / "average_best_2.pth"
    config = ModelConfig("wav2vec2_GF", ssl="tiny")
    torch.manual_seed(0)
    checkpoints.save_checkpoint(path, config, build_detector(config).state_dict())

    text = output(compare.main, ["--corpus", str(corpus), "--out", str(tmp_path), "--back_ends", "GF"])
    header, *rows = csv.reader((tmp_path / "table.csv").read_text().splitlines())
    assert {row[0] for row in rows} == {"Nes2Net_X", "GF"}
    key = corpus / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.eval.trl.txt"
    for row in rows:
        row = dict(zip(header, row))
        detector = checkpoints.load_detector(
            tmp_path / "logs" / row["back-end"] / "run" / "checkpoints" / "average_best_2.pth"
        )
        assert int(row["parameters"]) == count_parameters(detector.back_end)
        assert int(row["at 1024 channels"]) == {"Nes2Net_X": 512_039, "GF": 131_458}[row["back-end"]]
        scores = str(tmp_path / "scores" / f"{row['back-end']}.txt")
        report = compare.script(
            "EER_minDCF", "--labels_file", key, "--path", scores, "--json", stdout=compare.subprocess.PIPE
        )
        eer = next(r for r in json.loads(report.stdout)["rows"] if r["name"] == "pooled")["figures"]["eer"]["value"]
        assert float(row["EER all [%]"]) == pytest.approx(100 * eer)
        assert float(row["step [ms]"]) > 0 and float(row["real-time factor"]) > 0
        assert (row["p against Nes2Net_X"] == "") == (row["back-end"] == "Nes2Net_X")
        assert re.search(rf"\| {row['back-end']} \| .* {100 * eer:.1f} \(", text)
    eers = [float(row[header.index("EER all [%]")]) for row in rows]
    assert eers == sorted(eers)
    assert (tmp_path / "table.md").read_text() in text
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_run_ends_the_comparison(tmp_path, fails):
    fails(compare.main, ["--corpus", str(tmp_path / "absent"), "--out", str(tmp_path)], "train.py", "status 2")
