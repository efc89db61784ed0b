"""What a checkpoint says of its data: names without paths, and the warning of the corpus's maker."""

import json
import re

import pytest
import torch
from conftest import TINY

import checkpoint
import checkpoints
import corpora
from common.console import UserError
from model import build_detector


def test_a_corpus_is_called_what_its_maker_says_else_by_its_own_name(tmp_path):
    corpus = tmp_path / "private" / "corpus"
    (corpus / "protocols").mkdir(parents=True)
    key = corpus / "protocols" / "dev.txt"
    assert corpora.describe(corpus) == ("corpus", None) and corpora.describe(f"{corpus}/") == ("corpus", None)
    assert corpora.describe(key) == ("dev.txt", None)
    (corpus / "corpus.json").write_text(json.dumps({"name": "prompts\x1b", "note": "a toy"}))
    for path in (corpus, key):
        assert corpora.describe(path) == ("prompts\\x1b", "a toy")
    for other in ("{", "[]", '{"name": 7}', '{"settings": 1}'):
        (corpus / "corpus.json").write_text(other)
        assert corpora.describe(corpus) == ("corpus", None)


def test_training_names_its_data_without_paths(tmp_path):
    (tmp_path / "corpus.json").write_text(json.dumps({"name": "prompts", "note": "a toy"}))
    expected = {"trained_on": "prompts", "tested_on": "the dev set of prompts", "note": "a toy"}
    assert corpora.describe_data([tmp_path], None) == expected
    lists = ["/home/someone/a.txt", "/home/someone/b.txt"]
    assert corpora.describe_data(lists, ["/x/dev.txt"]) == {"trained_on": "a.txt, b.txt", "tested_on": "dev.txt"}


def test_the_demo_s_detector_carries_its_warning_into_averages_and_calibrations(tmp_path, corpus, finished_run, output):
    made = json.loads((corpus / "corpus.json").read_text())
    assert made["name"] == "the demo corpus, own recordings"
    assert made["note"].startswith("trained on 32 utterances, own recordings and ") and "little" in made["note"]
    kept = finished_run / "checkpoints"
    for path in (*kept.glob("epoch_*.pth"), *kept.glob("best_*"), *kept.glob("average_*")):
        content = checkpoints.read_checkpoint(path)
        assert content["note"] == made["note"] and content["trained_on"] == made["name"], path
        assert content["tested_on"] == f"the dev set of {made['name']}"
    output(checkpoint.main, ["average", str(tmp_path / "a.pth"), *map(str, sorted(kept.glob("epoch_*.pth")))])
    assert checkpoints.read_checkpoint(tmp_path / "a.pth")["note"] == made["note"]
    (tmp_path / "scores.txt").write_text("LA_D_1 0.5\nLA_D_2 -0.5\n")
    (tmp_path / "key.txt").write_text("S LA_D_1 - - bonafide\nS LA_D_2 - A01 spoof\n")
    files = [str(tmp_path / name) for name in ("a.pth", "b.pth", "scores.txt", "key.txt")]
    output(checkpoint.main, ["calibrate", *files])
    content = checkpoints.read_checkpoint(tmp_path / "b.pth")
    assert content["note"] == made["note"] and content["tested_on"] == content["valid"]["key"] == "key.txt"
    shown = output(checkpoint.main, ["show", str(tmp_path / "b.pth")])
    assert re.search(f"^note: +{re.escape(made['note'])}$", shown, re.M)


@pytest.mark.parametrize("facts", [{"note": 7}, {"tested_on": ["x"]}])
def test_names_are_texts(tmp_path, facts):
    content = {"format": checkpoints.FORMAT, "config": TINY.to_dict(), "model": build_detector(TINY).state_dict()}
    torch.save(content | facts, tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"as its `{next(iter(facts))}`"):
        checkpoints.read_checkpoint(tmp_path / "x.pth")
