"""The contract of a training objective: from a batch and the detector to one number, and all that this needs."""

from collections.abc import Sequence

import torch
from torch import nn

from model import Detector, Teacher, at_least_float32


class Loss(nn.Module):
    """A training objective. A new one is a class, and an entry in training.losses.LOSSES.

    The loss of a batch is `total` / `weight`, the mean over its trials, each with its weight. Training takes the two
    apart: the parts of a batch (--grad_accum, several processes) have one mean. A loss of several terms gives (terms,)
    for each, and the means are added.

    Most losses are functions of the detector's outputs and define `total`. One that needs more (embeddings, hidden
    states, a second network) overrides `of_detector`. Parameters and buffers of the loss are trained and resumed with
    the run, but are in no checkpoint: what scoring needs belongs to the detector, see `model_fields`.

    class_weights: (spoof, bona fide), used by the losses that weigh classes.
    """

    n_outputs = 2  # that the detector must have
    output = "linear"  # kind of its output layer, see ModelConfig.output
    by_epochs = False  # does it depend on how many epochs there are?
    couples_trials = False  # does a trial's loss depend on the others of its batch? Then --grad_accum is refused
    sensible_batch = 1  # of fewer trials its terms cannot be small: train.py warns
    bonafide_only = False  # is it trained on the bona fide trials of the training set alone?
    needs_teacher = False  # does it need --teacher, a trained detector that is not trained any further?
    needs_members = False  # does it need --members, trained detectors that the new one weighs?

    def __init__(self, class_weights: Sequence[float] = (0.1, 0.9)) -> None:
        super().__init__()
        self.register_buffer("class_weights", torch.tensor(class_weights), persistent=False)

    @classmethod
    def model_fields(cls, teacher: dict | None) -> dict:
        """The fields of ModelConfig that it asks for, {name: value}. teacher: the configuration of the teacher."""
        return {"output": cls.output} if cls.output != "linear" else {}

    @classmethod
    def check_detector(cls, detector: Detector) -> None:
        """Raise ValueError, in words, if it cannot train that detector."""

    @classmethod
    def check_teacher(cls, detector: Detector, teacher: Teacher) -> None:
        """Raise ValueError, in words, if it is no teacher of that detector."""

    def take_teacher(self, detector: Detector, teacher: Teacher) -> None:
        """Called once, before training, if there is a teacher. The loss keeps it, or gives it to the detector."""
        self.teacher = teacher

    def of_batch(self, seconds: float, progress: float = 1.0) -> None:
        """Called before each batch, for losses that depend on the length of its crops, or on how far training is.

        progress: share of the epochs that are done; 1 for the dev set, so that its losses compare between epochs.
        """

    def of_detector(self, detector: Detector, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What `total` gives, of waveforms (B, samples) and labels (B,), 1 bona fide and 0 spoof. A training step calls
        this, under autocast, which losses compute without; it must not wait for the GPU.
        """
        outputs = at_least_float32(detector(x))
        with torch.autocast(x.device.type, enabled=False):
            return self.total(outputs, labels)

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of the dev set, a scalar: of the detector's outputs (B, n_outputs) and labels (B,)."""
        return self.total(outputs, labels) / at_least_tiny(self.weight(labels))

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum over trials, each with its weight, a scalar."""
        raise NotImplementedError

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        """The sum of the trials' weights, a scalar; of what `of_detector` gives. 0: the batch trains nothing."""
        return torch.ones_like(labels, dtype=torch.float32).sum()


class EmbeddingLoss(Loss):
    """A loss that sees the embeddings of which the detector decides. A subclass defines `of_embeddings` and `total`."""

    @classmethod
    def check_detector(cls, detector: Detector) -> None:
        if why := detector.back_end.why_no_embeddings():
            raise ValueError(f"takes embeddings, and {detector.config.back_end} {why}")

    def of_detector(self, detector: Detector, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        embeddings = detector.embed(detector.hidden_states(x))
        with torch.autocast(x.device.type, enabled=False):
            return self.of_embeddings(detector, embeddings, labels)

    def of_embeddings(self, detector: Detector, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What `total` gives, of embeddings (B, D) and labels (B,)."""
        raise NotImplementedError


def at_least_tiny(weight: torch.Tensor) -> torch.Tensor:
    """A sum of trials' weights to divide by: where it is 0, the sum over these trials is 0 and stays it."""
    return weight.clamp(min=torch.finfo(weight.dtype).tiny)


class Objective(nn.Module):
    """A detector and its loss as one module, all that is trained: waveforms (B, samples) and labels (B,) to what
    Loss.of_detector gives. DistributedDataParallel wraps this.
    """

    def __init__(self, detector: Detector, loss: Loss) -> None:
        super().__init__()
        self.detector, self.loss = detector, loss

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.loss.of_detector(self.detector, x, labels)
