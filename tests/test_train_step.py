"""One training step: numbers that go wrong, precision, parts of a batch, a loader that is too slow, two processes."""

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import checkpoints
import corpora
import data_utils
import train
from training import distributed, trainer, validation
from training.config import TrainingConfig
from training.losses import LOSSES

NAN = float("nan")


@pytest.fixture
def trained(tmp_path, train_flags, output):
    """trained(*flags): the folder of a run and what it printed."""

    def call(*flags):
        text = output(train.main, [*train_flags, "--algo", "0", *flags, "--log_dir", str(tmp_path / "logs")])
        return max((tmp_path / "logs").glob("*/*")), text

    return call


def weights(folder, name="epoch_1.pth"):
    return checkpoints.read_checkpoint(folder / "checkpoints" / name)["model"]


def snapshot(training):
    values = [value.clone() for value in training.detector.state_dict().values() if value.is_floating_point()]
    return values + [value.clone() for moments in training.optimizer.state.values() for value in moments.values()]


@pytest.fixture
def poisoned(monkeypatch):
    """poisoned(*numbers): steps of these numbers, from 1, see waveforms of NaN; a list of what each left unchanged."""

    def call(*numbers):
        step, untouched = train.Training.step, []

        def poison(self, x, labels):
            before = snapshot(self)
            result = step(self, x * NAN if len(untouched) + 1 in numbers else x, labels)
            untouched.append([torch.equal(a, b) for a, b in zip(before, snapshot(self))])
            return result

        monkeypatch.setattr(train.Training, "step", poison)
        return untouched

    return call


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_without_a_finite_loss_changes_nothing(poisoned, trained, capsys, precision):
    untouched = poisoned(3, 6)
    folder, _ = trained("--precision", precision)
    assert len(untouched) == 12 and all(untouched[2]) and all(untouched[5]) and len(untouched[2]) > 200
    assert not any(all(step) for i, step in enumerate(untouched) if i not in (2, 5))
    assert all(torch.isfinite(value).all() and value.dtype != torch.bfloat16 for value in weights(folder).values())
    state = checkpoints.read_checkpoint(folder / "checkpoints" / checkpoints.RESUME_NAME)
    assert state["skipped"] == 2 and state["in_a_row"] == 0
    assert "epoch 2: skipped 1 steps without a finite loss" in capsys.readouterr().err


def test_ten_steps_in_a_row_without_a_finite_loss_end_the_run(poisoned, tmp_path, train_flags, corpus, fails):
    poisoned(*range(2, 12))
    flags = [*train_flags, "--algo", "0", "--log_dir", str(tmp_path)]
    message = fails(train.main, flags, "epoch 3", " 10 steps")
    protocol, _ = corpora.official_files("ASVspoof2019_LA", "train", corpus)
    trials = corpora.read_protocol(protocol)
    sampler = data_utils.EpochSampler(32, 8, shuffle=True, seed=3)
    sampler.epoch = 3
    tenth = [trials[index].utt_id for _, index in list(sampler)[2]]  # step 11 is the third of epoch 3
    assert message.endswith(f"the last of them on {', '.join(tenth)}")


def test_nine_in_a_row_do_not(poisoned, trained):
    poisoned(*range(2, 11))
    assert "finished" in trained()[1]


def test_recomputing_layers_changes_no_weight(trained):
    plain, _ = trained("--foldername", "plain", "--epochs", "1")
    recomputed, _ = trained("--foldername", "recomputed", "--epochs", "1", "--grad_checkpoint")
    assert all(torch.equal(value, weights(recomputed)[name]) for name, value in weights(plain).items())


class Linear(nn.Module):
    """In the place of a detector: no batch norm, whose statistics a part of a batch does not share with the others."""

    def __init__(self, n_outputs):
        super().__init__()
        self.front_end, self.back_end = nn.Identity(), nn.Linear(400, n_outputs)

    def set_trained(self, front_end):
        pass

    def forward(self, x):
        return self.back_end(self.front_end(x))


def gradients(n_outputs, n_parts, precision="fp32"):
    config = TrainingConfig(corpus="CtrSVDD", grad_accum=n_parts, lr=0, precision=precision, schedule="constant")
    torch.manual_seed(0)
    loss = LOSSES["focal" if n_outputs == 1 else "weighted_CCE"]([0.1, 0.9])
    dataset = data_utils.TrialDataset([None] * 10)
    loader = data_utils.make_loader(dataset, 10, shuffle=True)
    detector = Linear(n_outputs)
    training = train.Training(config, detector, loss, torch.device("cpu"), train.run_folder.Path("."), loader, {}, None)
    training.freeze(False)
    x, labels = torch.randn(10, 400), torch.tensor([0, 0, 1, 0, 1, 0, 0, 0, 0, 0])
    value, norm, skipped = training.step(x, labels)
    assert not skipped
    torch.testing.assert_close(value, loss(detector(x), labels), rtol=1e-3, atol=1e-4)
    return detector.back_end.weight.grad


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("n_parts", [2, 3, 10])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(n_outputs, n_parts):
    torch.testing.assert_close(gradients(n_outputs, n_parts), gradients(n_outputs, 1))
    assert (gradients(n_outputs, n_parts, "bf16") - gradients(n_outputs, 1)).abs().max() < 0.01


def test_a_frozen_encoder_costs_no_backward_pass(trained, monkeypatch):
    seen = []
    forward = train.build_detector.__globals__["Detector"].forward

    def watched(self, waveforms, **options):
        if self.training:
            seen.append(any(state.requires_grad for state in self.front_end(waveforms)))
        return forward(self, waveforms, **options)

    monkeypatch.setattr(train.build_detector.__globals__["Detector"], "forward", watched)
    trained("--epochs", "2", "--SSL_freeze_epoch", "1")
    assert seen == 4 * [False] + 4 * [True]


def test_a_slow_loader_is_noticed(trained, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "LOG_EVERY", 4)
    batch, step, now = data_utils.TrialDataset.batch, trainer.Training.step, [0.0]
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def step_of_a_quarter(self, *args):
        now[0] += 0.25
        return step(self, *args)

    def batch_of_a_half(self, keys):
        now[0] += 0.5 * (self.place == "random")  # the dev sets are cropped at their start
        return batch(self, keys)

    monkeypatch.setattr(trainer.Training, "step", step_of_a_quarter)
    trained("--epochs", "1", "--foldername", "fast")
    assert "starves" not in capsys.readouterr().err
    monkeypatch.setattr(data_utils.TrialDataset, "batch", batch_of_a_half)
    folder, text = trained("--epochs", "2", "--foldername", "slow")
    assert capsys.readouterr().err.count("the loader starves the device: steps wait for it ") == 1
    assert re.findall(r"utt_per_s [\d.]+$", text, re.MULTILINE)
    events = EventAccumulator(str(folder)).Reload()
    for waited, seconds in zip(events.Scalars("train/seconds_of_waiting"), events.Scalars("train/seconds")):
        assert (waited.value, seconds.value) == (1.5, 3)  # the first of the four batches does not count as waiting


def test_the_environment_is_written_beside_the_run(finished_run):
    (start,) = json.loads((finished_run / "environment.json").read_text())
    assert start["packages"]["torch"] == torch.__version__
    assert len(start["git_commit"]) == 40 and start["threads"] == torch.get_num_threads()


@pytest.fixture
def alone(tmp_path):
    """A group of this process alone, to run the code that several processes run."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.leave()


@pytest.mark.parametrize(
    "norm, shape", [(nn.BatchNorm1d, (6, 5, 7)), (nn.BatchNorm1d, (6, 5)), (nn.BatchNorm2d, (6, 5, 4, 3))]
)
@pytest.mark.parametrize("affine", [True, False])
def test_synchronised_batch_norm_is_batch_norm(alone, norm, shape, affine):
    torch.manual_seed(0)
    plain, ours = norm(5, affine=affine), norm(5, affine=affine)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(plain.state_dict())
    distributed.synchronise_batch_norm(ours)
    for mode in (True, True, False):
        plain.train(mode), ours.train(mode)
        x = (100 + torch.randn(shape)).requires_grad_()
        y = x.detach().clone().requires_grad_()
        expected, found = plain(x), ours(y)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        weight = torch.randn(shape)
        for module, out in ((plain, expected), (ours, found)):
            module.zero_grad()
            (weight * out).sum().backward()
        torch.testing.assert_close(y.grad, x.grad, atol=1e-4, rtol=1e-3)
        for a, b in zip(ours.parameters(), plain.parameters()):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-4, rtol=1e-4)


def test_bad_audio_is_reported_before_training_or_skipped(tmp_path, corpus, train_flags, fails, output, capsys):
    database = tmp_path / "db"
    for split in ("train", "dev"):
        folder = database / f"ASVspoof2019_LA_{split}" / "flac"
        folder.mkdir(parents=True)
        paths = sorted((corpus / f"ASVspoof2019_LA_{split}" / "flac").iterdir())
        for path in paths:
            (folder / path.name).symlink_to(path)
        (folder / paths[2].name).unlink()
        (folder / paths[2].name).write_bytes(paths[2].read_bytes()[:1000])
    bad = [str(sorted(folder.iterdir())[2]) for folder in sorted(database.glob("*/flac"), reverse=True)]
    flags = [*train_flags, "--algo", "0", "--epochs", "1", "--database_path", str(database)]
    flags += ["--protocols_path", str(corpus), "--log_dir", str(tmp_path / "logs")]
    fails(train.main, flags, bad[0], "truncated")
    with pytest.raises(SystemExit):
        train.run(lambda: train.main([*flags, "--check_audio", "--skip_bad_audio", "1"]))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines[-3:-1]] == bad
    assert "2 of 52 files cannot be read (listed above); --skip_bad_audio allows 1" in lines[-1]
    assert "32 files" not in output(train.main, [*flags, "--skip_bad_audio", "2"])
    err = capsys.readouterr().err
    assert all(err.count(f"skipped: {path}: ") == 1 for path in bad)
    text = output(train.main, [*flags, "--check_audio", "--skip_bad_audio", "2"])
    assert "audio: 52 files checked, 2 skipped" in text and "finished" in text


def test_the_published_dev_loss_is_that_of_the_published_loop(finished_run, corpus):
    """The program adds, batch by batch in the order of the list, the weighted mean times the number of trials."""
    protocol, audio = corpora.official_files("ASVspoof2019_LA", "dev", corpus)
    trials = corpora.read_trials(protocol, audio)
    content = checkpoints.read_checkpoint(finished_run / "checkpoints" / "epoch_3.pth")
    detector = checkpoints.load_detector(finished_run / "checkpoints" / "epoch_3.pth")
    augmented = data_utils.TrialDataset(
        trials, 8000, augment=train.choose_augmentation(TrainingConfig(algo=4, seed=3)), seed=3
    )
    for suffix, dataset in (("", data_utils.TrialDataset(trials, 8000)), ("_augmented", augmented)):
        val_loss, num_total, weight = 0.0, 0, torch.tensor([0.1, 0.9])
        with torch.no_grad():
            for start in range(0, 20, 8):
                items = [dataset[0, i] for i in range(start, min(start + 8, 20))]
                logits = detector(torch.tensor(np.stack([x for x, *_ in items])))
                losses = -logits.log_softmax(1)[range(len(items)), [label for _, label, _ in items]]
                weights = weight[[label for _, label, _ in items]]
                val_loss += float((weights * losses).sum() / weights.sum()) * len(items)
                num_total += len(items)
        figure = content["valid"][f"loss{suffix}_published"]
        assert figure == pytest.approx(val_loss / num_total, rel=1e-5)
        assert abs(figure - content["valid"][f"loss{suffix}"]) > 1e-4


def test_the_published_dev_loss_by_hand():
    """Batches of 2, 2 and 1; cross-entropies 1, 2, 3, 4, 5 of spoof, bona fide, spoof, spoof, bona fide."""
    outputs, labels = torch.zeros(5, 2), torch.tensor([0, 1, 0, 0, 1])
    for i, entropy in enumerate((1.0, 2.0, 3.0, 4.0, 5.0)):
        outputs[i, 1 - labels[i]] = math.log(math.exp(entropy) - 1)
    criterion = LOSSES["weighted_CCE"]((0.1, 0.9))
    assert criterion(outputs, labels).item() == pytest.approx((0.1 + 1.8 + 0.3 + 0.4 + 4.5) / 2.1)
    assert validation.published_mean(criterion, outputs, labels, 2) == pytest.approx((2 * 1.9 + 2 * 3.5 + 5) / 5)
    equal = LOSSES["weighted_CCE"]((1.0, 1.0))
    assert validation.published_mean(equal, outputs, labels, 2) == pytest.approx(equal(outputs, labels).item()) == 3


def test_the_published_dev_loss_ranks_where_it_is_asked_for(trained):
    flags = ["--average_by", "loss_augmented_published", "--average_best", "1", "--epochs", "2"]
    folder, text = trained(*flags)
    shown = [float(value) for value in re.findall(r"^epoch.* dev_loss_augmented_published (\S+) ", text, re.MULTILINE)]
    best = min(range(2), key=shown.__getitem__)
    averaged = checkpoints.read_checkpoint(folder / "checkpoints" / "average_best_1.pth")["averaged"]
    assert averaged == [f"epoch_{best + 1}.pth"]
