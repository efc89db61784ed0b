"""A run of training: its epochs, validation, and what it takes to go on after a crash."""

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import checkpoints
from common.audio import SAMPLE_RATE
from common.console import StopSignals, UserError, progress, signal_name, warn
from data_utils import TrialLoader
from front_ends import attention_for_any_length
from front_ends.lora import merge_adapters
from model import Detector
from training import distributed, validation
from training.config import TrainingConfig
from training.kept import KeptCheckpoints
from training.objective import Loss
from training.schedules import EVERY_STEP, SCHEDULES, validates
from training.steps import Steps

LOG_EVERY = 50  # steps
STOP_AFTER = 10  # steps in a row without a finite loss


class Training(Steps):
    """A detector in training and all that changes with it. `state` is where the run stands, as plain data:

    epoch: the one that is trained, from 1; batch: steps done in it; best: lowest figures so far; stale: validated
    epochs since that of --average_by was lowest; kept: {epoch: figures} of the checkpoints on the disk; loss, n_losses:
    sum and number of the epoch's finite losses; skipped: the run's steps without a finite loss; in_a_row: such steps up
    to now; pending_steps: the losses, gradient norms, skips and trial indices of the steps that have not been read from
    the device; logged: the figures of those that were read last.
    """

    def __init__(
        self,
        config: TrainingConfig,
        detector: Detector,
        criterion: Loss,
        device: torch.device,
        folder: Path,
        train_loader: TrialLoader,
        dev_loaders: dict[str, TrialLoader],
        signals: StopSignals,
    ) -> None:
        super().__init__(config, detector, criterion, device)
        self.train_loader, self.dev_loaders, self.signals = train_loader, dev_loaders, signals
        self.n_steps = len(train_loader)
        self.scheduler = SCHEDULES[config.schedule](config, self.optimizer, self.n_steps)
        self.every_step = config.schedule in EVERY_STEP
        self.state = {"epoch": 1, "batch": 0, "best": {}, "stale": 0, "kept": {}, "skipped": 0, "in_a_row": 0}
        self.state |= {"pending_steps": [], "loss": 0.0, "n_losses": 0, "logged": {}}
        self.kept = KeptCheckpoints(config, detector, folder, self.state)
        self.saved_at = time.monotonic()
        self.writer = None
        self.warned = self.finished = False
        self.logs_percent = True  # False in runs that began with rates from 0 to 1 in TensorBoard's log
        self.speed = ""

    def fit(self) -> None:
        """Train to the last epoch, from wherever the state is, and average."""
        config, state = self.config, self.state
        while state["epoch"] <= config.epochs and not (config.early_stop and state["stale"] >= config.early_stop):
            epoch, lr, start = state["epoch"], self.optimizer.param_groups[0]["lr"], time.monotonic()
            train_loss = self.train_epoch()
            seconds = time.monotonic() - start
            saved, dev = [], {}
            if validates(config, epoch):
                dev = self.validate(epoch)
                self.use_average(True)
                saved = self.kept.keep_validated(epoch, {**dev, "train_loss": train_loss})
                self.use_average(False)
            if not self.every_step:
                self.scheduler.step()
            self.write_figures(validation.tags(dev, self.logs_percent), epoch * self.n_steps)
            state |= {"epoch": epoch + 1, "batch": 0, "loss": 0.0, "n_losses": 0, "logged": {}}
            self.save()
            self.kept.prune()
            self.kept.check()
            shown = validation.in_words(dev, config.average_by) if dev else "-"
            distributed.say(
                f"epoch {epoch}/{config.epochs} train_loss {train_loss:.5f} {shown} "
                f"lr {lr:.3g} seconds {seconds:.1f} saved {','.join(saved) or '-'} {self.speed}"
            )
        if state["epoch"] <= config.epochs:
            distributed.say(f"stopped early: {state['stale']} validated epochs without a lower {config.average_by}")
        self.finished = True
        self.kept.check()
        if config.average_best:
            distributed.gather(None)  # the last checkpoint is written
            self.average_best()
            self.kept.check()

    # ------------------------------------------------------------------------------------------------------ on the disk

    def save(self) -> None:
        """Write the file to resume from."""
        self.use_average(False)  # an error may have ended validation
        states = distributed.gather(checkpoints.random_states())
        if distributed.rank() == 0:
            self.kept.check_folder()
            pending = [[value.cpu() for value in step] for step in self.state["pending_steps"]]
            facts = {**self.state, "pending_steps": pending, "scaler": self.scaler.state_dict()}
            facts |= {"objective": self.criterion.state_dict()} if self.criterion.state_dict() else {}
            facts |= {"ema": self.ema.means} if self.ema else {}
            path = self.kept.folder / checkpoints.RESUME_NAME
            self.writer.flush()  # first: what was logged up to here is not logged again
            checkpoints.save_resume(path, self.detector, self.optimizer, self.scheduler, states, **facts)
        self.saved_at = time.monotonic()

    def resume(self, paths: list[Path]) -> None:
        """Go back to where the first of `paths` that is whole leads. Raises UserError where none is."""
        reasons = []
        for path in paths:
            try:
                content = checkpoints.load_resume(
                    path, self.detector, self.optimizer, self.scheduler, distributed.rank()
                )
                of_loss = content.get("objective", {})
                checkpoints.load_strictly(self.criterion, of_loss, path, f"--loss {self.config.loss}")
            except UserError as error:
                reasons.append(error)
                continue
            if reasons:
                warn(f"{reasons[0]}; going on from {path}")
            if "waiting" in content:  # its name in runs that began before
                content["pending_steps"] = content["waiting"]
            self.state.update({name: content[name] for name in self.state})
            pending = content["pending_steps"]
            self.state["pending_steps"] = [
                [*(value.to(self.device) for value in step[:3]), step[3]] for step in pending
            ]
            self.scaler.load_state_dict(content["scaler"])
            if self.ema:
                self.ema.load(content["ema"], path)
            self.kept.prune()  # the run may have been killed between saving and pruning
            self.kept.find(fell_back=bool(reasons))
            return
        raise reasons[0]

    def stop_if_asked(self) -> None:
        """After a step or a validation: save when it is time to, or save and end the process after a signal."""
        due = time.monotonic() - self.saved_at >= 60 * self.config.save_every_minutes
        number, due = distributed.highest(self.signals.received, due)
        if (number or due) and not self.finished:  # behind the last epoch the detector holds the average
            self.save()
        if number:
            epoch, batch = self.state["epoch"], self.state["batch"]
            distributed.say(
                f"stopped by {signal_name(int(number))} in epoch {epoch} after {batch} batches; --resume auto goes on"
            )
            sys.exit(128 + int(number))

    def batches(
        self, loader: TrialLoader, **options: object
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """A loader's batches behind a bar. If they end in an error, what the last step made is saved first."""
        try:
            yield from progress(loader, unit="batch", disable=distributed.rank() > 0, **options)
        except Exception:
            # Several processes would have to meet in order to save, and the others wait in a step.
            if distributed.world_size() == 1 and self.state["batch"] and not self.finished:
                self.save()
            raise

    # --------------------------------------------------------------------------------------------------------- training

    def train_epoch(self) -> float:
        """The rest of an epoch over the training set. Returns the mean of its finite losses."""
        config, state, loader = self.config, self.state, self.train_loader
        self.progress = (state["epoch"] - 1) / config.epochs
        frozen = state["epoch"] <= config.SSL_freeze_epoch
        self.freeze(frozen)
        self.objective.train()
        if frozen:
            self.detector.front_end.eval()  # a frozen encoder drops nothing out
        loader.batch_sampler.epoch, loader.batch_sampler.start = state["epoch"], state["batch"]
        title = f"epoch {state['epoch']}/{config.epochs}"
        n_utterances, waited, asked, start = 0, 0.0, None, time.monotonic()
        for x, labels, indices in self.batches(loader, desc=title, initial=state["batch"], total=self.n_steps):
            if asked:  # the first batch of an epoch, for which the workers start, does not count
                waited += time.monotonic() - asked
            n_utterances += len(x)
            lr = self.optimizer.param_groups[0]["lr"]
            state["pending_steps"].append([*self.step(x, labels), indices])
            if self.every_step:
                self.scheduler.step()
            state["batch"] += 1
            if len(state["pending_steps"]) == LOG_EVERY or state["batch"] == self.n_steps:
                self.read_pending_steps(lr, n_utterances, waited, start)
                n_utterances, waited, start = 0, 0.0, time.monotonic()
            self.stop_if_asked()
            asked = time.monotonic()
        return state["loss"] / state["n_losses"] if state["n_losses"] else math.nan

    def read_pending_steps(self, lr: float, n_utterances: int, waited: float, start: float) -> None:
        """Read from the device what the steps since the last call gave, log it, and stop where the run is lost.

        n_utterances: theirs. waited: seconds that they waited for the loader. start: when they began.
        """
        state = self.state
        steps, state["pending_steps"] = state["pending_steps"], []
        ready = time.monotonic()
        values = torch.stack([torch.stack([value.float() for value in step[:3]]) for step in steps]).tolist()
        seconds, behind = time.monotonic() - start, time.monotonic() - ready
        # A device that is far behind has enough to do, however long the next batch is waited for.
        starved = len(steps) == LOG_EVERY and waited > 0.2 * seconds and behind < 0.1 * seconds
        if starved and not self.warned:
            self.warned = True
            warn(
                f"the loader starves the device: steps wait for it {waited / seconds:.0%} of the time; more processes "
                "that read audio (--num_workers) may help"
            )
        for (*_, skipped), (*_, indices) in zip(values, steps):
            state["in_a_row"] = state["in_a_row"] + 1 if skipped else 0
            state["skipped"] += bool(skipped)
            if state["in_a_row"] == STOP_AFTER:
                trials = self.train_loader.dataset.trials
                ids = [trials[i].utt_id for share in distributed.gather(indices.tolist()) for i in share]
                raise UserError(
                    f"epoch {state['epoch']}: expected a finite loss, found none in {STOP_AFTER} steps in a row; "
                    f"the last of them on {', '.join(ids)}"
                )
        good = [(loss, norm) for loss, norm, skipped in values if not skipped]
        state["loss"] += sum(loss for loss, _ in good)
        state["n_losses"] += len(good)
        norms = [norm for _, norm in good if math.isfinite(norm)]
        self.speed = f"utt_per_s {n_utterances / seconds:.1f}"
        figures = {"lr": lr, "utt_per_s": n_utterances / seconds, "seconds": seconds, "seconds_of_waiting": waited}
        figures |= {"loss": sum(loss for loss, _ in good) / len(good)} if good else {}
        figures |= {"grad_norm": sum(norms) / len(norms)} if norms else {}
        if len(good) < len(steps):
            warn(f"epoch {state['epoch']}: skipped {len(steps) - len(good)} steps without a finite loss")
            figures["skipped_steps"] = state["skipped"]
        state["logged"] = figures
        self.log()

    def log(self) -> None:
        """Write the figures of the steps that were read last to the log."""
        figures = {f"train/{name}": value for name, value in self.state["logged"].items()}
        self.write_figures(figures, (self.state["epoch"] - 1) * self.n_steps + self.state["batch"])

    def write_figures(self, figures: dict[str, float], step: int) -> None:
        """Write {tag: value} to TensorBoard's log, in the process that has one."""
        if self.writer:
            self.kept.check_folder()
            try:
                for tag, value in figures.items():
                    self.writer.add_scalar(tag, value, step)
                self.writer.flush()  # its thread would end in a traceback where the folder is deleted before it writes
            except OSError:
                self.kept.check_folder()
                raise

    # ------------------------------------------------------------------------------------------------------- validation

    @torch.no_grad()
    def validate(self, title: int | str) -> dict[str, float]:
        """Figures on the dev set, lower is better: {loss, loss_published, eer, threshold}, and loss_augmented and
        loss_augmented_published where that loader exists; of several corpora the EER of each and macro_eer, their mean.

        Augmentation is the same in every epoch, to compare like with like. Every process scores its share.
        """
        self.objective.eval()
        self.use_average(True)
        found = {}
        for suffix, loader in self.dev_loaders.items():
            loader.batch_sampler.epoch = 0
            rows = []
            desc = f"epoch {title} dev{suffix}"
            with torch.inference_mode(), self.autocast(), attention_for_any_length():
                for x, labels, indices in self.batches(loader, desc=desc):
                    x = x.to(self.device, non_blocking=True)
                    logits = self.detector(x, normalized=loader.dataset.front_end is not None)
                    rows.append((logits.float(), labels, indices))
                    if self.signals.received:
                        break
            found[suffix] = [validation.joined([row[i] for row in rows]).cpu() if rows else None for i in range(3)]
        self.use_average(False)
        self.stop_if_asked()
        figures = {}
        for suffix, share in found.items():
            shares = [share for share in distributed.gather(share) if share[0] is not None]
            logits, labels, indices = (validation.joined([share[i] for share in shares]) for i in range(3))
            indices, first = np.unique(indices.numpy(), return_index=True)  # in the trials' order, each once
            logits, labels = logits[first], labels[first]
            outputs, targets = logits.to(self.device), labels.to(self.device)
            self.criterion.of_batch(self.config.crop / SAMPLE_RATE)
            figures["loss" + suffix] = self.criterion(outputs, targets).item()
            published = validation.published_mean(self.criterion, outputs, targets, self.config.batch_size)
            figures[f"loss{suffix}_published"] = published
            if not suffix:
                trials = self.dev_loaders[suffix].dataset.trials
                of_corpora = [trials[index].corpus for index in indices]
                figures |= validation.dev_figures(self.detector, logits, labels, of_corpora)
        return figures

    def average_best(self) -> None:
        """Average the best checkpoints, validate the average and keep it as average_best_N.pth."""
        config = self.config
        paths = [self.kept.path_of(epoch) for epoch in self.kept.best_epochs()]
        if len(paths) < config.average_best:
            raise UserError(
                f"{self.kept.folder}: expected {config.average_best} checkpoints to average, found {len(paths)}"
            )
        out = self.kept.folder / f"average_best_{config.average_best}.pth"
        averaged = sorted(path.name for path in paths)
        if out.exists() and checkpoints.read_checkpoint(out)["averaged"] == averaged:
            distributed.say(f"{out} is there already")
            return
        self.ema = None
        merge_adapters(self.detector)
        self.detector.load_state_dict(checkpoints.average_checkpoints(paths))
        figures = self.validate("average")
        self.kept.save_weights(out.name, figures, averaged=averaged)
        distributed.say(
            f"average of {', '.join(averaged)}: {validation.in_words(figures, config.average_by)} saved {out}"
        )
