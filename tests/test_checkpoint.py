import os
import pickle

import numpy as np
import pytest
import torch

import checkpoints
from common.console import UserError
from front_ends.wav2vec2 import Wav2Vec2
from model import ModelConfig, build_detector

CONFIG = ModelConfig("wav2vec2_Nes2Net_X", ssl="tiny", Nes_ratio=(2, 2))


def detector(seed=0):
    torch.manual_seed(seed)
    found = build_detector(CONFIG)
    for i, buffer in enumerate(found.buffers()):  # as after some training
        if not buffer.is_floating_point():
            buffer.fill_(7 + seed + i)
    return found


def save(path, seed=0, **facts):
    checkpoints.save_checkpoint(path, CONFIG, detector(seed).state_dict(), **facts)
    return path


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


def test_a_detector_survives_a_round_trip(tmp_path):
    path = save(tmp_path / "a.pt", epoch=3, valid={"eer": 0.5})
    found = checkpoints.load_detector(path, model_name="wav2vec2_Nes2Net_X", Nes_ratio=[2, 2])
    assert found.config == CONFIG and not found.training
    assert same(found.state_dict(), detector().state_dict())
    assert checkpoints.read_checkpoint(path)["epoch"] == 3
    assert os.listdir(tmp_path) == ["a.pt"]  # no temporary file is left


@pytest.mark.parametrize(
    "flag, value", [("pool_func", "ASTP"), ("Nes_ratio", [4, 4]), ("model_name", "wav2vec2_Nes2Net")]
)
def test_a_flag_that_disagrees_is_an_error_with_both_values(tmp_path, flag, value):
    with pytest.raises(UserError) as raised:
        checkpoints.load_detector(save(tmp_path / "a.pt"), **{flag: value})
    for word in (f"--{flag}", str(getattr(CONFIG, flag)), str(value)):
        assert word in str(raised.value)


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = detector().state_dict()
    del state["back_end.fc.bias"]
    state["back_end.extra"] = torch.zeros(2)
    state["back_end.fc.weight"] = torch.zeros(2, 3)
    checkpoints.save_checkpoint(tmp_path / "a.pt", CONFIG, state)
    with pytest.raises(UserError, match="3 of .* back_end.fc.bias") as raised:
        checkpoints.load_detector(tmp_path / "a.pt")
    assert raised.value.details == [
        "missing back_end.fc.bias",
        "left over back_end.extra",
        "back_end.fc.weight has shape (2, 3), expected (2, 64)",
    ]


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"model": Payload(mark)}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Payload(mark)))
    for name in ("zip.pt", "bare.pt"):
        with pytest.raises(UserError, match=f"{name}: "):
            checkpoints.read_checkpoint(tmp_path / name)
        assert not mark.exists()
    with pytest.raises(UserError, match="could run code"):
        checkpoints.read_checkpoint(tmp_path / "zip.pt")


def test_other_files_are_refused(tmp_path):
    whole = save(tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").touch()
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("cut.pt", "text.pt", "empty.pt", "other.pt", "gone.pt"):
        with pytest.raises(UserError, match=name):
            checkpoints.read_checkpoint(tmp_path / name)


def test_an_average_is_the_arithmetic_mean_in_any_order(tmp_path):
    paths = [save(tmp_path / f"epoch_{epoch}.pth", seed=epoch, epoch=epoch) for epoch in (9, 10, 11)]
    found = checkpoints.average_checkpoints(paths)
    states = [detector(seed).state_dict() for seed in (9, 10, 11)]
    for key, value in found.items():
        values = np.stack([state[key].numpy() for state in states])
        if value.is_floating_point():
            assert value.dtype == torch.float32
            np.testing.assert_array_equal(value.numpy(), values.astype(np.float64).mean(0).astype(np.float32))
        else:
            assert value == states[-1][key]  # of the latest epoch
    for order in ([1, 2, 0], [2, 1, 0]):
        assert same(found, checkpoints.average_checkpoints([paths[i] for i in order]))
    assert same(states[0], checkpoints.average_checkpoints(paths[:1]))


def published_average(model, states):
    """What the published loop leaves in a model: it adds to a state dict that shares the model's weights."""
    total = None
    for state in states:
        model.load_state_dict(state)
        if total is None:
            total = model.state_dict()
        else:
            total = {key: total[key] + value for key, value in model.state_dict().items()}
    model.load_state_dict({key: value / len(states) for key, value in total.items()})
    return model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [(9, 10), (9, 10, 11), (11, 9, 10, 12)])
def test_an_average_as_published_loses_the_first_and_doubles_the_second(tmp_path, epochs):
    paths = [save(tmp_path / f"epoch_{epoch}.pth", seed=epoch, epoch=epoch) for epoch in epochs]
    found = checkpoints.average_checkpoints(paths, as_published=True)
    assert same(found, published_average(detector(0), [detector(epoch).state_dict() for epoch in epochs]))
    name = "back_end.fc.weight"
    states = [detector(epoch).state_dict()[name].double() for epoch in epochs]
    torch.testing.assert_close(found[name].double(), (2 * states[1] + sum(states[2:])) / len(states))
    assert not same(found, checkpoints.average_checkpoints(paths))
    with pytest.raises(UserError, match="at least two"):
        checkpoints.average_checkpoints(paths[:1], as_published=True)


def test_what_cannot_be_averaged_is_named(tmp_path):
    path = save(tmp_path / "epoch_1.pth", epoch=1)
    other = ModelConfig("wav2vec2_Nes2Net", ssl="tiny", Nes_ratio=(2, 2))
    checkpoints.save_checkpoint(tmp_path / "epoch_2.pth", other, build_detector(other).state_dict(), epoch=2)
    with pytest.raises(UserError, match="epoch_2.pth: .*epoch_1.pth"):
        checkpoints.average_checkpoints([path, tmp_path / "epoch_2.pth"])
    with pytest.raises(UserError, match=r"epoch_1\.pth"):
        checkpoints.average_checkpoints([path, path])
    with pytest.raises(UserError, match="none"):
        checkpoints.average_checkpoints([])


def test_the_best_checkpoints_of_a_run(tmp_path):
    folder = tmp_path / "checkpoints"
    figures = {1: 0.3, 2: 0.1, 3: 0.2, 10: 0.1}
    for epoch, eer in figures.items():
        name = f"epoch_{epoch}.pth" if epoch < 3 else f"model_{epoch}_EER_{eer}.pt"
        valid = {"eer": eer, "loss": -epoch, "selected_by": "eer"}
        save(folder / name, epoch=epoch, valid=valid)
    save(folder / "best_model.pt", epoch=2)
    for run in (tmp_path, folder):
        best = checkpoints.best_checkpoints(run, 3)
        assert [path.name for path in best] == ["epoch_2.pth", "model_10_EER_0.1.pt", "model_3_EER_0.2.pt"]
    assert checkpoints.best_checkpoints(tmp_path, 1, "loss")[0].name == "model_10_EER_0.1.pt"
    assert checkpoints.checkpoints_of_epochs(tmp_path, [10, 1])[1].name == "epoch_1.pth"
    with pytest.raises(UserError, match="4, 5.* 1, 2, 3, 10"):
        checkpoints.checkpoints_of_epochs(tmp_path, [4, 1, 5])
    with pytest.raises(UserError, match=" 5 .* 4"):
        checkpoints.best_checkpoints(tmp_path, 5)
    with pytest.raises(UserError, match="loss_augmented"):
        checkpoints.best_checkpoints(tmp_path, 1, "loss_augmented")
    with pytest.raises(UserError, match="nowhere"):
        checkpoints.best_checkpoints(tmp_path / "nowhere", 1)


def test_resuming_restores_everything(tmp_path):
    def parts(seed):
        found = detector(seed)
        optimizer = torch.optim.AdamW(found.parameters(), lr=1e-3)
        return found, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)

    def step(found, optimizer, scheduler):
        found.train()
        found(torch.randn(2, 2000)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    run = parts(0)
    step(*run)
    checkpoints.save_resume(tmp_path / "resume.pth", *run, epoch=1, best={"eer": 0.25})
    step(*run)
    other = parts(1)
    state = checkpoints.load_resume(tmp_path / "resume.pth", *other)
    assert (state["epoch"], state["best"]) == (1, {"eer": 0.25})
    step(*other)
    assert same(run[0].state_dict(), other[0].state_dict())
    assert run[2].get_last_lr() == other[2].get_last_lr()


def test_a_finished_checkpoint_is_nothing_to_resume_from(tmp_path):
    found = detector()
    with pytest.raises(UserError, match="a.pt: .* optimizer"):
        checkpoints.load_resume(save(tmp_path / "a.pt"), found, torch.optim.Adam(found.parameters()), None)


def test_pretrained_weights_load_without_their_heads(tmp_path):
    weights = detector(1).front_end.model.state_dict()
    heads = {
        "quantizer.vars": torch.zeros(1, 4),
        "project_q.weight": torch.zeros(2, 2),
        "final_proj.bias": torch.zeros(2),
    }
    settings = {"cfg": {"model": Wav2Vec2.presets["tiny"].fields}}
    torch.save({**settings, "model": {**weights, **heads}}, tmp_path / "ssl.pt")
    found = checkpoints.new_detector(CONFIG, tmp_path / "ssl.pt")
    assert same(found.front_end.model.state_dict(), weights)
    assert not any(tensor.is_meta for tensor in found.state_dict().values())
    torch.save({**settings, "model": {**weights, "w2v_model.x": torch.zeros(1)}}, tmp_path / "more.pt")
    with pytest.raises(UserError, match="w2v_model.x"):
        checkpoints.new_detector(CONFIG, tmp_path / "more.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "bare.pt")
    with pytest.raises(UserError, match="`model`"):
        checkpoints.new_detector(CONFIG, tmp_path / "bare.pt")
