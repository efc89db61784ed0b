import copy
import json
import os
import signal
import time
import weakref
from pathlib import Path

import pytest
import torch
from oracles import plain_nes2net

from back_ends import build_back_end
from model import ModelConfig
from tools import benchmark, benchmark_training, timing
from tools.cost import Products


@pytest.mark.parametrize("name", ["Nes2Net", "Nes2Net_X", "Nes2Net_X_SeLU"])
@pytest.mark.parametrize("options", [{}, {"dilation": 1, "pool_func": "ASTP"}])
@pytest.mark.parametrize("training", [True, False])
def test_nes2net_equals_its_plain_formulation(name, options, training):
    torch.manual_seed(0)
    net = build_back_end(ModelConfig(f"wav2vec2_{name}", Nes_ratio=(2, 4), **options), 32).double().train(training)
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for values in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                values.uniform_(0.5, 2)
    plain = copy.deepcopy(net)
    for shape in [(3, 31, 32), (1, 2, 32), (2, 1, 32)]:
        features = torch.randn(shape).double()
        found = []
        for model, function in [(net, net), (plain, lambda x: plain_nes2net(plain, x))]:
            x = features.clone().requires_grad_()
            logits = function(x)
            (logits * torch.arange(1.0, 2 * len(x) + 1).view(-1, 2)).sum().backward()
            gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
            found.append({"logits": logits, "features": x.grad, **gradients, **dict(model.named_buffers())})
        for key, expected in found[1].items():
            torch.testing.assert_close(found[0][key], expected, rtol=1e-7, atol=1e-9)


def test_features_in_any_memory_order_give_the_same():
    torch.manual_seed(0)
    net = build_back_end(ModelConfig("wav2vec2_Nes2Net_X", Nes_ratio=(2, 4)), 32).eval()
    features = torch.randn(3, 20, 32)
    by_frames = features.transpose(0, 1).contiguous().transpose(0, 1)  # as fairseq's encoder gives them
    with torch.inference_mode():
        torch.testing.assert_close(net(by_frames), net(features))
        one_by_one = torch.cat([net(trial[None]) for trial in features])
        torch.testing.assert_close(net(features), one_by_one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["rawboost", "--seconds", "0.1"],
        ["loader", "--files", "2"],
        ["backend", "--batch_size", "2", "--frames", "5"],
        ["eval", "--ssl", "tiny", "--trials", "3"],
    ],
)
def test_benchmark_prints_a_table_and_writes_json(flags, tmp_path, output):
    text = output(benchmark.main, [*flags, "--repeats", "1", "--json", str(tmp_path / "b.json")])
    (rows,) = json.loads((tmp_path / "b.json").read_text())["stages"].values()
    assert rows[0]["ratio"] == 1 and all(row["seconds"] > 0 for row in rows)
    assert all(row["name"] in text for row in rows)
    if flags[0] == "eval":
        assert rows[1]["score difference"] < 1e-4 < rows[2]["score difference"] < 1
        quiet, loaded = rows[-2:]
        assert "quiet" in quiet["name"] and "under load" in loaded["name"]
        assert loaded["of the quiet time"] == pytest.approx(loaded["seconds"] / quiet["seconds"])


@pytest.mark.slow
def test_a_training_step_is_timed_in_a_row_a_way(tmp_path, output, monkeypatch):
    """What does not fit the memory is a row, and the next ones come."""
    alive = []
    new_step = benchmark_training._step

    def step(name, config, device):
        assert not any(detector() for detector in alive)  # one at a time
        if name == "fp32":
            raise torch.OutOfMemoryError
        step, training = new_step(name, config, device)
        alive.append(weakref.ref(training.detector) if training else lambda: None)
        return step, training

    monkeypatch.setattr(benchmark_training, "_step", step)
    flags = ["train", "--batch_sizes", "2", "3", "--crop", "4000", "--repeats", "1", "--json", str(tmp_path / "b.json")]
    text = output(benchmark.main, flags)
    assert max(map(len, text.splitlines())) <= 120
    rows = {row["name"]: row for row in json.loads((tmp_path / "b.json").read_text())["stages"]["train"]}
    assert [name for name in rows if name.startswith("2 x")] == [
        f"2 x {name}" for name in list(benchmark_training.WAYS)[:-1]
    ]
    assert len(rows) == 8 and rows["3 x fp32"] == {"name": "3 x fp32", "GiB": "out of memory"}
    row = rows["3 x bf16"]
    assert row["TFLOP/s"] / row["utt/s"] == pytest.approx(rows["2 x naive"]["TFLOP/s"] / rows["2 x naive"]["utt/s"])


def test_products_of_a_step_are_those_of_its_layers():
    convolution = torch.nn.Conv1d(8, 8, 3, padding=1, groups=4)
    x = torch.randn(2, 8, 50, requires_grad=True)
    with Products() as products:
        convolution(x).sum().backward()
    assert products.n == 3 * 2 * 50 * 8 * 2 * 3  # forward, to the input and to the weight
    with Products() as products:
        convolution(x.detach()).sum().backward()
    assert products.n == 2 * 2 * 50 * 8 * 2 * 3


@pytest.mark.parametrize(
    "gpu, bf16",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("Tesla T4", None),  # has no bfloat16
        ("Quadro", None),
    ],
)
def test_peaks_of_cards(gpu, bf16, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: gpu)
    assert benchmark_training._peak(torch.device("cuda"), 0) == bf16
    if gpu == "Tesla T4":
        assert benchmark_training._peak(torch.device("cuda"), 2) == 8.1e12


def ticks(process_id):
    """Processor time that a process has had, in clock ticks; None if it is gone."""
    try:
        words = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if words[0] in "ZX" else int(words[11])


def becomes(condition):
    end = time.monotonic() + 600
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_busy_processes_compute_and_end_with_the_block():
    with pytest.raises(KeyboardInterrupt), timing.busy_processes(2) as processes:
        ids = [process.pid for process in processes]
        assert len(ids) == 2 and becomes(lambda: all(ticks(process_id) > 0 for process_id in ids))
        raise KeyboardInterrupt
    assert [ticks(process_id) for process_id in ids] == [None, None]


def test_busy_processes_end_with_a_benchmark_that_is_killed():
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        with timing.busy_processes(1) as (process,):
            os.write(writing, str(process.pid).encode())
            os.kill(os.getpid(), signal.SIGKILL)
    process_id = int(os.read(reading, 20))
    os.waitpid(parent, 0)
    assert becomes(lambda: ticks(process_id) is None)
