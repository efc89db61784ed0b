"""A detector in training: its steps, validation, checkpoints, and what it takes to go on after a crash."""

import contextlib
import functools
import math
import operator
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recomputed

import checkpoints
from common.audio import SAMPLE_RATE
from common.console import StopSignals, UserError, progress, warn
from corpora import BONAFIDE, SPOOF
from data_utils import TrialLoader
from front_ends import attention_for_any_length
from front_ends.lora import merge_adapters, merged_state_dict
from model import Detector
from reports.metrics import compute_eer
from training import distributed, run_folder
from training.config import TrainingConfig
from training.cuda_graph import GraphedGradients
from training.losses import Loss
from training.run_flags import PRECISIONS
from training.schedules import EVERY_STEP, SCHEDULES, validates

LOG_EVERY = 50  # steps
NOT_LOGGED = {*checkpoints.CALIBRATION, "score_low", "score_high"}
STOP_AFTER = 10  # steps in a row without a finite loss


class Training:
    """A detector in training and all that changes with it. `state` is where the run stands, as plain data:

    epoch: the one that is trained, from 1; batch: steps done in it; best: lowest figures so far; stale: validated
    epochs since that of --average_by was lowest; kept: {epoch: figures} of the checkpoints on the disk; loss, n_losses:
    sum and number of the epoch's finite losses; skipped: the run's steps without a finite loss; in_a_row: such steps up
    to now; waiting: the losses, gradient norms, skips and trial indices of the steps since the last look at them;
    logged: the figures that this look gave.
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
        self.config, self.detector, self.criterion, self.device = config, detector, criterion, device
        self.checkpoints = folder / "checkpoints"
        self.train_loader, self.dev_loaders, self.signals = train_loader, dev_loaders, signals
        self.n_steps = len(train_loader)
        # Fused: one kernel for all weights, and one that heeds found_inf, see step().
        self.optimizer = getattr(torch.optim, config.optimizer)(
            detector.parameters(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, config.beta2), fused=True
        )
        self.scheduler = SCHEDULES[config.schedule](config, self.optimizer, self.n_steps)
        self.every_step = config.schedule in EVERY_STEP
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.statistics = [buffer for buffer in detector.buffers() if buffer.is_floating_point()]
        self.state = {"epoch": 1, "batch": 0, "best": {}, "stale": 0, "kept": {}, "skipped": 0, "in_a_row": 0}
        self.state["waiting"] = []
        self.state |= {"loss": 0.0, "n_losses": 0, "logged": {}}
        self.saved_at = time.monotonic()
        self.writer = self.frozen = None
        self.seen = {}  # of the process that writes: checkpoints.measure of the dev set
        self.check_folder = lambda: None  # of the process that writes: what run_folder.locked gives
        self.wrote_best = self.warned = False
        self.speed, self.finished = "", False
        if distributed.world_size() > 1:
            distributed.synchronise_batch_norm(detector)
        if config.compile:
            parts = [*detector.front_end.parts_to_compile(), *detector.back_end.parts_to_compile()]
            for module, method in parts:
                setattr(module, method, _translated_in_training(getattr(module, method), module))
        if config.grad_checkpoint:
            for layer in detector.front_end.layers():
                layer.forward = functools.partial(recomputed, layer.forward, use_reentrant=False)

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
                saved = self.keep_validated(epoch, {**dev, "train_loss": train_loss})
            if not self.every_step:
                self.scheduler.step()
            logged = {f"dev/{name}": dev[name] for name in dev.keys() - NOT_LOGGED}
            self.write_figures(logged, epoch * self.n_steps)
            state |= {"epoch": epoch + 1, "batch": 0, "loss": 0.0, "n_losses": 0, "logged": {}}
            self.save()
            self.prune()
            self.check_kept()
            shown = _figures(dev, config.average_by) if dev else "-"
            distributed.say(
                f"epoch {epoch}/{config.epochs} train_loss {train_loss:.5f} {shown} "
                f"lr {lr:.3g} seconds {seconds:.1f} saved {','.join(saved) or '-'} {self.speed}"
            )
        if state["epoch"] <= config.epochs:
            distributed.say(f"stopped early: {state['stale']} validated epochs without a lower {config.average_by}")
        self.finished = True
        self.check_kept()
        if config.average_best:
            distributed.gather(None)  # the last checkpoint is written
            self.average_best()
            self.check_kept()

    # ------------------------------------------------------------------------------------------ on the disk

    def save(self) -> None:
        """Write the file to resume from."""
        states = distributed.gather(checkpoints.random_states())
        if distributed.rank() == 0:
            self.check_folder()
            waiting = [[value.cpu() for value in step] for step in self.state["waiting"]]
            facts = {**self.state, "waiting": waiting, "scaler": self.scaler.state_dict()}
            path = self.checkpoints / checkpoints.RESUME_NAME
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
            except UserError as error:
                reasons.append(error)
                continue
            if reasons:
                warn(f"{reasons[0]}; going on from {path}")
            self.state = {name: content[name] for name in self.state}
            waiting = self.state["waiting"]
            self.state["waiting"] = [[*(value.to(self.device) for value in step[:3]), step[3]] for step in waiting]
            self.scaler.load_state_dict(content["scaler"])
            self.prune()  # the run may have been killed between saving and pruning
            self.find_kept(fell_back=bool(reasons))
            return
        raise reasons[0]

    def find_kept(self, fell_back: bool) -> None:
        """Look for the checkpoints that a run that goes on has kept; go on without those that nothing needs.

        fell_back: the newest file to resume from is damaged; its run may have deleted what an earlier state lists.
        Raises UserError if one that the average needs is gone.
        """
        kept = self.state["kept"]
        self.wrote_best = (self.checkpoints / "best_model.pt").exists()
        gone = [epoch for epoch in kept if not self.path_of(epoch).exists()]
        gone, self.wrote_best = distributed.gather((gone, self.wrote_best))[0]
        needed = [self.path_of(epoch).name for epoch in gone if epoch in self.best_epochs()]
        if needed and not fell_back:
            raise UserError(
                f"{self.checkpoints}: expected the checkpoints that --average_best {self.config.average_best} needs, "
                f"found no {', '.join(needed)}; once put back, --resume auto goes on"
            )
        names = [self.path_of(epoch).name for epoch in gone]
        names += ["best_model.pt"] if self.state["best"] and not self.wrote_best else []
        if names and distributed.rank() == 0:
            warn(f"{self.checkpoints}: going on without {', '.join(names)}, which the run wrote and is gone")
        self.state["kept"] = {epoch: figures for epoch, figures in kept.items() if epoch not in gone}

    def check_kept(self) -> None:
        """Raise UserError if the folder of the run, or a checkpoint that it has kept, is gone."""
        if distributed.rank() > 0:
            return
        self.check_folder()
        paths = [*map(self.path_of, self.state["kept"]), *([self.checkpoints / "best_model.pt"] * self.wrote_best)]
        if gone := [path.name for path in paths if not path.exists()]:
            raise UserError(
                f"{self.checkpoints}: expected the checkpoints that this run has kept, found no {', '.join(gone)}; "
                "once put back, --resume auto goes on"
            )

    def path_of(self, epoch: int) -> Path:
        """The checkpoint that the run keeps of an epoch, by its figures."""
        by_eer = self.config.validation == "eer"
        eer = self.state["kept"][epoch]["eer"]
        return self.checkpoints / (f"model_{epoch}_EER_{eer}.pt" if by_eer else f"epoch_{epoch}.pth")

    def best_epochs(self) -> list[int]:
        """The kept epochs that --average_best averages, as it stands; of equal ones the earlier."""
        kept, name = self.state["kept"], self.config.average_by
        return sorted(kept, key=lambda epoch: (kept[epoch][name], epoch))[: self.config.average_best]

    def space_needed(self) -> tuple[int, int]:
        """Bytes that the run is certain to write, and that it possibly writes."""
        config = self.config
        weights = sum(value.nbytes for value in self.detector.state_dict().values())
        self.detector.set_trained(front_end=True)
        moments = 2 * sum(p.nbytes for p in self.detector.parameters() if p.requires_grad)
        possible = sum(validates(config, epoch) for epoch in range(1, config.epochs + 1))
        if config.keep_last or config.keep_best:
            possible = min(possible, (config.keep_last or 0) + (config.keep_best or 0) + config.average_best + 1)
        certain = possible if config.keep == "every" else 1
        # Beside the epochs': the best again, the average, and three files to resume from while the newest is written.
        rest = (1 + (config.average_best > 0)) * weights + 3 * (weights + moments)
        return certain * weights + rest, possible * weights + rest

    def keep_validated(self, epoch: int, figures: dict[str, float]) -> list[str]:
        """Keep this epoch's checkpoint where the run asks for it. Returns the names written."""
        config, best = self.config, self.state["best"]
        watched = [config.figure] if config.validation == "eer" else ["loss", "loss_augmented"]
        watched += [config.average_by] if config.average_by not in watched else []
        better = operator.le if config.keep == "not_worse" else operator.lt
        improved = [name for name in watched if better(figures[name], best.get(name, math.inf))]
        best.update({name: figures[name] for name in improved})
        self.state["stale"] = 0 if config.average_by in improved else self.state["stale"] + 1
        names = []
        if config.keep == "every" or improved:
            self.state["kept"][epoch] = figures
            names.append(self.path_of(epoch).name)
        if watched[0] in improved:
            names.append("best_model.pt")
            self.wrote_best = True
        for name in names:
            self.save_weights(name, figures, epoch=epoch)
        return names

    def save_weights(self, name: str, figures: dict[str, float], **facts: object) -> None:
        facts |= {"valid": {**figures, "selected_by": self.config.figure}, **self.config.about_data}
        facts |= {"crop": self.config.crop, "seen": self.seen}
        if distributed.rank() == 0:
            self.check_folder()
            state = merged_state_dict(self.detector)
            checkpoints.save_checkpoint(self.checkpoints / name, self.detector.config, state, **facts)

    def prune(self) -> None:
        """Delete checkpoints that --keep_last and --keep_best do not name and the average does not need."""
        config = self.config
        if distributed.rank() == 0 and (config.keep_last or config.keep_best):
            best = [(config.figure, config.keep_best or 0), (config.average_by, config.average_best)]
            paths = {epoch: self.path_of(epoch) for epoch in self.state["kept"]}
            run_folder.prune(paths, self.state["kept"], config.keep_last, best)

    def stop_if_asked(self) -> None:
        """After a step or a validation: save when it is time to, or save and end the process after a signal."""
        due = time.monotonic() - self.saved_at >= 60 * self.config.save_every_minutes
        number, due = distributed.highest(self.signals.received, due)
        if (number or due) and not self.finished:  # behind the last epoch the detector holds the average
            self.save()
        if number:
            epoch, batch = self.state["epoch"], self.state["batch"]
            distributed.say(
                f"stopped by signal {number:.0f} in epoch {epoch} after {batch} batches; --resume auto goes on"
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

    # -------------------------------------------------------------------------------------------- training

    def autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.config.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def freeze(self, frozen: bool) -> None:
        """Train the front-end or not. Makes self.network, what a step calls: the detector, compiled and shared out."""
        if frozen == self.frozen:
            return
        self.frozen = frozen
        self.detector.set_trained(front_end=not frozen)
        self.network, self.compute_gradients = self.detector, self.gradients
        if distributed.world_size() > 1:
            # Looking for parameters that a step left out waits for the device in each.
            unused = self.drops_layers() or not self.detector.back_end.same_kernels
            self.network = DistributedDataParallel(self.network, broadcast_buffers=False, find_unused_parameters=unused)
        elif self.config.compile and not self.why_not_recorded():
            self.compute_gradients = GraphedGradients(self.gradients, self.detector.parameters())

    def drops_layers(self) -> bool:
        """Does a step leave out layers of the front-end by chance?"""
        return not self.frozen and self.detector.front_end.training_settings().get("encoder_layerdrop", 0) > 0

    def why_not_recorded(self) -> str:
        """Why --compile records no step as a CUDA graph; "" if it does."""
        if self.device.type != "cuda":
            return "on a CPU there is none"
        if distributed.world_size() > 1:
            return "not with several processes"
        if self.drops_layers():
            return "a step leaves out layers by chance, see --encoder_layerdrop"
        if self.config.grad_checkpoint:
            return "the random state that a layer is recomputed from cannot be recorded, see --grad_checkpoint"
        return "" if self.detector.back_end.same_kernels else f"{self.detector.config.back_end} waits for the device"

    def compiled(self) -> str:
        """What --compile does to this training, in words."""
        back_end, why_not = self.detector.back_end, self.why_not_recorded()
        parts = "the front-end's layers" + (" and the back-end" if back_end.parts_to_compile() else "")
        parts += f", not {back_end.not_compiled}" if back_end.not_compiled else ""
        graph = f"no CUDA graph: {why_not}" if why_not else "a step becomes one CUDA graph"
        return f"compiled in the first steps, which takes up to minutes: {parts}; {graph}"

    def train_epoch(self) -> float:
        """The rest of an epoch over the training set. Returns the mean of its finite losses."""
        config, state, loader = self.config, self.state, self.train_loader
        frozen = state["epoch"] <= config.SSL_freeze_epoch
        self.freeze(frozen)
        self.detector.train()
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
            state["waiting"].append([*self.step(x, labels), indices])
            if self.every_step:
                self.scheduler.step()
            state["batch"] += 1
            if len(state["waiting"]) == LOG_EVERY or state["batch"] == self.n_steps:
                self.look(lr, n_utterances, waited, start)
                n_utterances, waited, start = 0, 0.0, time.monotonic()
            self.stop_if_asked()
            asked = time.monotonic()
        return state["loss"] / state["n_losses"] if state["n_losses"] else math.nan

    def step(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One step of the optimiser: waveforms (b, samples) and labels (b,), this process's share of the batch.

        Returns on the device, for no step waits for the GPU: the batch's loss, the norm of its gradient, and whether
        the step was skipped because one of them is not finite. Then weights, moments and the running statistics of
        batch norms stay as they were.
        """
        x, labels = x.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        before = self.running_statistics()
        self.criterion.of_batch(x.shape[1] / SAMPLE_RATE, (self.state["epoch"] - 1) / self.config.epochs)
        loss = self.compute_gradients(x, labels)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(p.grad for p in self.detector.parameters() if p.grad is not None)
        finite = torch.isfinite(loss)
        if not self.scaler.is_enabled():  # the scaler looks after infinite gradients itself, they are its measure
            finite &= torch.isfinite(norm)
            self.optimizer.found_inf = (~finite).float()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.statistics:
            kept = torch.where(finite, self.running_statistics(), before)
            kept = kept.split([buffer.numel() for buffer in self.statistics])
            torch._foreach_copy_(self.statistics, [part.view_as(old) for part, old in zip(kept, self.statistics)])
        return loss, norm, ~finite

    def gradients(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, a scalar; its gradients, scaled by the scaler, become those of the parameters."""
        config, world = self.config, distributed.world_size()
        weight = distributed.total(self.criterion.weight(labels))
        loss = torch.zeros((), device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(x.chunk(config.grad_accum), labels.chunk(config.grad_accum)))
        for i, (x_part, labels_part) in enumerate(parts):
            # The processes' gradients are averaged in the backward pass of the last part.
            apart = self.network.no_sync() if world > 1 and i + 1 < len(parts) else contextlib.nullcontext()
            with apart:
                with self.autocast():
                    logits = self.network(x_part)
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                part = (self.criterion.total(logits, labels_part) / weight).sum()  # of several terms
                self.scaler.scale(part * world).backward()
            loss += part.detach()
        return distributed.total(loss)

    def running_statistics(self) -> torch.Tensor:
        """A copy of the batch norms' running means and variances, (values,)."""
        return torch.cat([torch.empty(0, device=self.device), *(buffer.flatten() for buffer in self.statistics)])

    def look(self, lr: float, n_utterances: int, waited: float, start: float) -> None:
        """Read from the device what the steps since the last look gave, log it, and stop where the run is lost.

        n_utterances: theirs. waited: seconds that they waited for the loader. start: when they began.
        """
        state = self.state
        steps, state["waiting"] = state["waiting"], []
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
        """Write the figures of the last look to the log."""
        figures = {f"train/{name}": value for name, value in self.state["logged"].items()}
        self.write_figures(figures, (self.state["epoch"] - 1) * self.n_steps + self.state["batch"])

    def write_figures(self, figures: dict[str, float], step: int) -> None:
        """Write {tag: value} to TensorBoard's log, in the process that has one."""
        if self.writer:
            self.check_folder()
            try:
                for tag, value in figures.items():
                    self.writer.add_scalar(tag, value, step)
                self.writer.flush()  # its thread would end in a traceback where the folder is deleted before it writes
            except OSError:
                self.check_folder()
                raise

    # ------------------------------------------------------------------------------------------ validation

    @torch.no_grad()
    def validate(self, title: int | str) -> dict[str, float]:
        """Figures on the dev set, lower is better: {loss, loss_published, eer, threshold}, and loss_augmented and
        loss_augmented_published where that loader exists.

        Augmentation is the same in every epoch, to compare like with like. Every process scores its share.
        """
        self.detector.eval()
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
            found[suffix] = [_joined([row[i] for row in rows]).cpu() if rows else None for i in range(3)]
        self.stop_if_asked()
        figures = {}
        for suffix, share in found.items():
            shares = [share for share in distributed.gather(share) if share[0] is not None]
            logits, labels, indices = (_joined([share[i] for share in shares]) for i in range(3))
            _, first = np.unique(indices.numpy(), return_index=True)  # in the trials' order, each once
            logits, labels = logits[first], labels[first]
            outputs, targets = logits.to(self.device), labels.to(self.device)
            self.criterion.of_batch(self.config.crop / SAMPLE_RATE)
            figures["loss" + suffix] = self.criterion(outputs, targets).item()
            published = published_mean(self.criterion, outputs, targets, self.config.batch_size)
            figures[f"loss{suffix}_published"] = published
            if not suffix:
                figures |= self.dev_figures(logits, labels)
        return figures

    def dev_figures(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """checkpoints.dev_figures of logits and labels as `validate` collects them; if units are scored, unit_eer and
        unit_threshold too.
        """
        scores = self.detector.scores_of(logits).numpy()
        if not self.config.unit:
            return checkpoints.dev_figures(scores[labels == BONAFIDE], scores[labels == SPOOF])
        units, of_units, labels = self.detector.unit_scores_of(logits).numpy(), labels[:, 1:], labels[:, 0]
        eer, threshold = compute_eer(units[of_units == BONAFIDE], units[of_units == SPOOF])
        figures = checkpoints.dev_figures(scores[labels == BONAFIDE], scores[labels == SPOOF])
        return {**figures, "unit_eer": eer, "unit_threshold": threshold}

    def average_best(self) -> None:
        """Average the best checkpoints, validate the average and keep it as average_best_N.pth."""
        config = self.config
        paths = [self.path_of(epoch) for epoch in self.best_epochs()]
        if len(paths) < config.average_best:
            raise UserError(
                f"{self.checkpoints}: expected {config.average_best} checkpoints to average, found {len(paths)}"
            )
        out = self.checkpoints / f"average_best_{config.average_best}.pth"
        averaged = sorted(path.name for path in paths)
        if out.exists() and checkpoints.read_checkpoint(out)["averaged"] == averaged:
            distributed.say(f"{out} is there already")
            return
        merge_adapters(self.detector)
        self.detector.load_state_dict(checkpoints.average_checkpoints(paths))
        figures = self.validate("average")
        self.save_weights(out.name, figures, averaged=averaged)
        distributed.say(f"average of {', '.join(averaged)}: {_figures(figures, config.average_by)} saved {out}")


def _joined(parts):
    """Tensors joined along their first axis; units, the second axis, are padded where there are fewer: logits with 0,
    labels with -1.
    """
    if parts[0].dim() < 2 or len({part.shape[1] for part in parts}) == 1:
        return torch.cat(parts)
    most, padding = max(part.shape[1] for part in parts), 0 if parts[0].is_floating_point() else -1
    last = [0, 0] * (parts[0].dim() - 2)
    return torch.cat([F.pad(part, (*last, 0, most - part.shape[1]), value=padding) for part in parts])


def _translated_in_training(method, module):
    """A method that torch.compile translates for training's few shapes; validation has as many as lengths, and does
    without.
    """
    translated = torch.compile(method, dynamic=False)
    return lambda *args, **options: (translated if module.training else method)(*args, **options)


def published_mean(criterion: Loss, outputs: torch.Tensor, labels: torch.Tensor, batch_size: int) -> float:
    """The dev loss as the published programs take it: the mean over batches, each counted by its number of trials.

    outputs (N, n_outputs), labels (N,), in the order of the dev list. With class weights each batch is divided by its
    own weight, so that this depends on batch_size and is not the loss of all trials. Source: main.py of Liu et
    al., 2025.
    """
    batches = list(zip(outputs.split(batch_size), labels.split(batch_size)))
    means = torch.stack([criterion(*batch) for batch in batches]).double().cpu()
    sizes = torch.tensor([len(batch) for _, batch in batches], dtype=torch.float64)
    return (means @ sizes / sizes.sum()).item()


def _figures(figures, average_by):
    names = [name for name in ("loss", "loss_augmented") if name in figures]
    names += [average_by] if average_by.endswith("_published") else []
    text = [f"dev_{name} {figures[name]:.5f}" for name in names]
    names = [name for name in ("eer", "unit_eer") if name in figures]
    return " ".join([*text, *(f"dev_{name} {100 * figures[name]:.3f}%" for name in names)])
