"""tools/cost.py against counts by hand."""

import json

import pytest
import torch
from torch import nn

from back_ends import BACK_ENDS
from tools import benchmark
from tools.cost import costs, multiply_accumulates, published


@pytest.mark.parametrize(
    "name, expected",
    [("AASIST", 710.4), ("Nes2Net", 53.9), ("Nes2Net_X", 84.9), ("Nes2Net_X_SeLU", 84.9)],
)
def test_the_counts_of_the_nes2nets_and_aasist(name, expected):
    """Counted apart from this project's code, in the issue of the reproduction."""
    assert round(costs(*published(name))["MMACs"], 1) == expected


def test_products_that_a_fused_operation_hides_are_counted():
    x = torch.zeros(1, 50, 8)
    lstm = nn.LSTM(8, 16, batch_first=True, bidirectional=True)
    assert multiply_accumulates(lstm, x) == 50 * 2 * 4 * 16 * (8 + 16)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    assert multiply_accumulates(attention, x, x, x) == 4 * 50 * 8 * 8 + 2 * 50 * 50 * 8
    grouped = nn.Conv1d(8, 8, 3, padding=1, groups=4)
    assert multiply_accumulates(grouped, x.transpose(1, 2)) == 50 * 8 * 2 * 3


def test_two_blstms_and_two_linear_layers():
    blstms = 2 * 2 * 4 * 64 * (128 + 64)
    assert costs(*published("LGF")) == {
        "parameters": 330_114,
        "MMACs": (201 * (1024 * 128 + blstms) + 2 * 128) / 1e6,
    }


@pytest.mark.slow
def test_the_benchmark_has_a_row_per_back_end(tmp_path, output):
    text = output(benchmark.main, ["cost", "--repeats", "1", "--json", str(tmp_path / "b.json")])
    rows = json.loads((tmp_path / "b.json").read_text())["stages"]["cost"]
    assert {row["name"] for row in rows} == set(BACK_ENDS) and "MMACs" in text
    assert {row["name"]: row["parameters"] for row in rows}["AttM_LSTM"] == 41_835_538  # on 12 layers, as published


@pytest.mark.slow
def test_mixers_are_timed_against_aasist(tmp_path, output):
    flags = ["--repeats", "1", "--batch_size", "2", "--frames", "9", "--json", str(tmp_path / "b.json")]
    output(benchmark.main, ["mixers", *flags])
    first, *rows = json.loads((tmp_path / "b.json").read_text())["stages"]["mixers"]
    assert (first["name"], first["ratio"]) == ("AASIST", 1) and len(rows) == 5
    for row in rows:  # one turn: the ratio is that of the two times
        assert row["ratio"] == pytest.approx(first["seconds"] / row["seconds"])
