"""The interface of a training objective: computes a loss from a detector and a batch."""

from collections.abc import Sequence

import torch
from torch import nn

from model import Detector, Teacher, at_least_float32


class Loss(nn.Module):
    """Base class of training objectives. To add one, write a subclass and enter it in training.losses.LOSSES.

    The loss of a mini-batch is `total` / `weight`, the weighted mean over its trials. Numerator and denominator are
    computed separately because a mini-batch may be split (--grad_accum, several processes) and still has one mean. A
    loss of several terms returns shape (terms,) from both methods; the means of the terms are added.

    Most losses depend on the detector's outputs only and define `total`. A loss that needs more (embeddings, hidden
    states, a second network) overrides `of_detector`. Parameters and buffers of the loss are trained and resumed with
    the run, but are not saved in checkpoints: whatever scoring needs belongs to the detector, see `model_fields`.

    class_weights: (spoof, bona fide), used by the losses with class weights.
    """

    n_outputs = 2  # number of outputs that the detector must have
    output = "linear"  # kind of the detector's output layer, see ModelConfig.output
    by_epochs = False  # does the loss depend on the total number of epochs?
    couples_trials = False  # does a trial's loss depend on the others of its batch? Then --grad_accum is refused
    sensible_batch = 1  # with smaller batches the terms cannot become small: train.py warns
    bonafide_only = False  # does it use only the bona fide trials of the training set?
    needs_teacher = False  # does it need --teacher, a trained and frozen detector?
    needs_members = False  # does it need --members, the trained detectors of an ensemble?

    def __init__(self, class_weights: Sequence[float] = (0.1, 0.9)) -> None:
        super().__init__()
        self.register_buffer("class_weights", torch.tensor(class_weights), persistent=False)

    @classmethod
    def model_fields(cls, teacher: dict | None) -> dict:
        """ModelConfig fields that the loss requires, {name: value}. teacher: configuration of the teacher, if any."""
        return {"output": cls.output} if cls.output != "linear" else {}

    @classmethod
    def check_detector(cls, detector: Detector) -> None:
        """Raise ValueError, with the reason, if the loss cannot train this detector."""

    @classmethod
    def check_teacher(cls, detector: Detector, teacher: Teacher) -> None:
        """Raise ValueError, with the reason, if `teacher` cannot teach this detector."""

    def take_teacher(self, detector: Detector, teacher: Teacher) -> None:
        """Store the teacher, in the loss or in the detector. Called once before training if there is a teacher."""
        self.teacher = teacher

    def of_batch(self, seconds: float, progress: float = 1.0) -> None:
        """Prepare for the next batch. Used by losses that depend on crop length (seconds) or training progress.

        progress: fraction of the epochs completed; 1 for the dev set, so that dev losses are comparable across epochs.
        """

    def of_detector(self, detector: Detector, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The `total` of waveforms (B, samples) and labels (B,), 1 bona fide and 0 spoof.

        Each training step calls this under autocast; the loss itself is computed without autocast. Must not
        synchronise with the GPU.
        """
        outputs = at_least_float32(detector(x))
        with torch.autocast(x.device.type, enabled=False):
            return self.total(outputs, labels)

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The dev loss, a scalar, from the detector's outputs (B, n_outputs) and labels (B,)."""
        return self.total(outputs, labels) / at_least_tiny(self.weight(labels))

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The weighted sum of the trials' losses, a scalar."""
        raise NotImplementedError

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        """The sum of the trials' weights, a scalar (or one per term of `of_detector`). 0: the batch has no effect."""
        return torch.ones_like(labels, dtype=torch.float32).sum()


class EmbeddingLoss(Loss):
    """Base class of losses on embeddings (the input of the output layer). Define `of_embeddings` and `total`."""

    @classmethod
    def check_detector(cls, detector: Detector) -> None:
        if why := detector.back_end.why_no_embeddings():
            raise ValueError(f"needs embeddings, but {detector.config.back_end} {why}")

    def of_detector(self, detector: Detector, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        embeddings = detector.embed(detector.hidden_states(x))
        with torch.autocast(x.device.type, enabled=False):
            return self.of_embeddings(detector, embeddings, labels)

    def of_embeddings(self, detector: Detector, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The `total` of embeddings (B, D) and labels (B,)."""
        raise NotImplementedError


def at_least_tiny(weight: torch.Tensor) -> torch.Tensor:
    """A sum of trial weights, clamped above 0 to divide by it: 0 / 0 becomes 0 for a batch without weight."""
    return weight.clamp(min=torch.finfo(weight.dtype).tiny)


class Objective(nn.Module):
    """Everything that is trained, the detector and its loss, as one module for DistributedDataParallel to wrap.

    Maps waveforms (B, samples) and labels (B,) to the result of Loss.of_detector.
    """

    def __init__(self, detector: Detector, loss: Loss) -> None:
        super().__init__()
        self.detector, self.loss = detector, loss

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.loss.of_detector(self.detector, x, labels)
