"""One step of training: a batch's loss and gradients, the optimiser, and how a step is made fast."""

import contextlib
import functools

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recomputed

from common.audio import SAMPLE_RATE
from model import Detector
from training import distributed, sam
from training.config import TrainingConfig
from training.cuda_graph import GraphedGradients
from training.ema import WeightAverage
from training.layer_rates import keep_rates, parameter_groups
from training.objective import Loss, Objective, at_least_tiny
from training.run_flags import PRECISIONS


class Steps:
    """A detector, its loss and its optimiser: `freeze` says what is trained, `step` trains it on a batch.

    Every parameter of the detector and the loss that asks for its gradient by then is trained.
    """

    def __init__(self, config: TrainingConfig, detector: Detector, criterion: Loss, device: torch.device) -> None:
        self.config, self.detector, self.criterion, self.device = config, detector, criterion, device
        self.objective = Objective(detector, criterion)
        self.trained = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        groups = self.trained
        if config.layer_decay is not None:
            groups = parameter_groups(self.trained, detector.front_end, config.layer_decay)
        # Fused: one kernel for all weights, and one that heeds found_inf, see step().
        self.optimizer = getattr(torch.optim, config.optimizer)(
            groups, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, config.beta2), fused=True
        )
        if config.layer_decay is not None:
            self.optimizer.register_step_pre_hook(keep_rates)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.statistics = [buffer for buffer in self.objective.buffers() if buffer.is_floating_point()]
        self.ema = None
        if config.ema is not None:
            detector.set_trained(front_end=True)
            trained = (parameter for parameter in self.trained if parameter.requires_grad)
            self.ema = WeightAverage([*trained, *self.statistics], config.ema)
        self.progress = 0.0  # share of the epochs that are done
        self.frozen = None  # the front-end, see freeze()
        if distributed.world_size() > 1:
            distributed.synchronise_batch_norm(self.objective)
        if config.compile:
            parts = [*detector.front_end.parts_to_compile(), *detector.back_end.parts_to_compile()]
            for module, method in parts:
                setattr(module, method, _translated_in_training(getattr(module, method), module))
        if config.grad_checkpoint:
            for layer in detector.front_end.layers():
                layer.forward = functools.partial(recomputed, layer.forward, use_reentrant=False)

    def autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.config.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def freeze(self, frozen: bool) -> None:
        """Train the front-end or not. Makes self.network, what a step calls: the objective, shared out to processes."""
        if frozen == self.frozen:
            return
        self.frozen = frozen
        self.detector.set_trained(front_end=not frozen)
        self.network, self.compute_gradients = self.objective, self.gradients
        if distributed.world_size() > 1:
            # Looking for parameters that a step left out waits for the device in each.
            unused = self.drops_layers() or not self.detector.back_end.same_kernels
            self.network = DistributedDataParallel(self.network, broadcast_buffers=False, find_unused_parameters=unused)
        elif self.config.compile and not self.why_not_recorded():
            self.compute_gradients = GraphedGradients(self.gradients, self.trained)

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
        if self.config.sam:
            return "a step draws its random numbers twice, see --sam"
        if self.config.grad_checkpoint:
            return "the random state that a layer is recomputed from cannot be recorded, see --grad_checkpoint"
        if self.detector.same_kernels:
            return ""
        kinds = [other.config.back_end for other in (self.detector, *self.detector.inside)]
        return f"{' or '.join(dict.fromkeys(kinds))} waits for the device"

    def compiled(self) -> str:
        """What --compile does to this training, in words."""
        back_end, why_not = self.detector.back_end, self.why_not_recorded()
        parts = "the front-end's layers" + (" and the back-end" if back_end.parts_to_compile() else "")
        parts += f", not {back_end.not_compiled}" if back_end.not_compiled else ""
        graph = f"no CUDA graph: {why_not}" if why_not else "a step becomes one CUDA graph"
        return f"compiled in the first steps, which takes up to minutes: {parts}; {graph}"

    def step(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One step of the optimiser: waveforms (b, samples) and labels (b,), this process's share of the batch.

        Returns on the device, for no step waits for the GPU: the batch's loss, the norm of its gradient, and whether
        the step was skipped because one of them is not finite. Then weights, moments and the running statistics of
        batch norms stay as they were.
        """
        config = self.config
        x, labels = x.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        before = self.running_statistics()
        self.criterion.of_batch(x.shape[1] / SAMPLE_RATE, self.progress)
        loss = self.sharpness_aware_gradients(x, labels) if config.sam else self.compute_gradients(x, labels)
        self.scaler.unscale_(self.optimizer)
        parameters = self.parameters_with_gradients()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        if config.clip_grad_norm:
            nn.utils.clip_grads_with_norm_(parameters, config.clip_grad_norm, norm)
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
        if self.ema:
            self.ema.update(finite & torch.isfinite(norm))
        return loss, norm, ~finite

    def use_average(self, averaged: bool) -> None:
        """Let the detector hold the moving average of its weights, if there is one, or those that are trained."""
        if self.ema:
            self.ema.put(averaged)

    def parameters_with_gradients(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.trained if parameter.grad is not None]

    def sharpness_aware_gradients(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """As compute_gradients, but the gradients are those at the weights that sam.climb finds; the weights and the
        loss are as they were.

        Both passes draw the same random numbers (dropout, dropped layers), and batch norms keep the statistics of the
        first, as in the code of Foret et al. A first pass that is not finite makes the second one so.
        """
        random_states = torch.get_rng_state(), torch.cuda.get_rng_state() if self.device.type == "cuda" else None
        loss = self.compute_gradients(x, labels)
        buffers = list(self.objective.buffers())
        after_first = [buffer.clone() for buffer in buffers]
        parameters = self.parameters_with_gradients()
        weights = sam.climb(parameters, self.config.sam, self.config.adaptive_sam)
        torch.set_rng_state(random_states[0])
        if random_states[1] is not None:
            torch.cuda.set_rng_state(random_states[1])
        second = self.compute_gradients(x, labels)
        with torch.no_grad():
            torch._foreach_copy_(parameters, weights)
            for buffer, value in zip(buffers, after_first):
                buffer.copy_(value)
        return torch.where(torch.isfinite(second), loss, second)

    def gradients(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, a scalar; its gradients, scaled by the scaler, become those of the parameters."""
        config, world = self.config, distributed.world_size()
        weight = at_least_tiny(distributed.total(self.criterion.weight(labels)))
        loss = torch.zeros((), device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(x.chunk(config.grad_accum), labels.chunk(config.grad_accum)))
        for i, (x_part, labels_part) in enumerate(parts):
            # The processes' gradients are averaged in the backward pass of the last part.
            apart = self.network.no_sync() if world > 1 and i + 1 < len(parts) else contextlib.nullcontext()
            with apart:
                with self.autocast():
                    total = self.network(x_part, labels_part)
                part = (total / weight).sum()  # of several terms
                self.scaler.scale(part * world).backward()
            loss += part.detach()
        return distributed.total(loss)

    def running_statistics(self) -> torch.Tensor:
        """A copy of the batch norms' running means and variances, (values,)."""
        return torch.cat([torch.empty(0, device=self.device), *(buffer.flatten() for buffer in self.statistics)])


def _translated_in_training(method, module):
    """A method that torch.compile translates for training's few shapes; validation has as many as lengths, and does
    without.
    """
    translated = torch.compile(method, dynamic=False)
    return lambda *args, **options: (translated if module.training else method)(*args, **options)
