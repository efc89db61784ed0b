"""Frequency-time distillation: a student on band-limited speech learns from a teacher on full-band speech."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from augmentation.fir import CUTOFFS, HALF_LENGTHS, apply_fir
from model import Detector, Teacher, at_least_float32
from training.cross_entropy import WeightedCrossEntropy


class FrequencyTimeDistillation(WeightedCrossEntropy):
    """Weighted cross-entropy of a student on low-pass filtered speech, plus three distances to a teacher on the same
    speech unfiltered: between the features' spectra over time (without the lowest quarter of the bins), between the
    features, and between the logits.

    This project's own reading of the title of Wang et al., "FTDKD: Frequency-time domain knowledge distillation for
    low-quality compressed audio deepfake detection", IEEE/ACM TASLP 2024. Only title and results were available: the
    filters, the choice of features, all three distances, their weights and the temperature (Hinton et al., 2015) may
    differ from the authors'.
    """

    needs_teacher = True
    FILTERS = 256  # size of the pool that each utterance draws its filter from
    HIGH = 0.25  # fraction of the bins, the lowest ones, that is left out
    FREQUENCY, TIME = 1.0, 1.0  # weights of the distances
    TEMPERATURE = 2.0

    def __init__(self, class_weights: Sequence[float] = (0.1, 0.9)) -> None:
        super().__init__(class_weights)
        rng, impulse = np.random.default_rng(0), np.zeros(2 * HALF_LENGTHS[1] + 1)
        impulse[HALF_LENGTHS[1]] = 1  # the impulse responses, zero-padded to the longest filter
        taps = np.stack([apply_fir(impulse, list(CUTOFFS)[i % 2], rng) for i in range(self.FILTERS)])
        self.register_buffer("taps", torch.from_numpy(taps).float(), persistent=False)

    @classmethod
    def check_teacher(cls, detector: Detector, teacher: Teacher) -> None:
        second = 16_000  # samples
        own, theirs = (
            (network.front_end.n_frames(second), network.front_end.channels, network.config.n_output_logits)
            for network in (detector, teacher)
        )
        if own != theirs:
            words = "{} frames per second, {} channels and {} outputs"
            raise ValueError(f"expected a detector with {words.format(*own)}, found {words.format(*theirs)}")

    def of_detector(self, detector: Detector, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sums (2,) of the cross-entropies and of the distances."""
        with torch.no_grad():
            theirs = self.teacher.hidden_states(x)
            targets = at_least_float32(self.teacher.classify(theirs))
        states = detector.hidden_states(self.filtered(x) if self.training else x)
        logits = at_least_float32(detector.classify(states))
        with torch.autocast(x.device.type, enabled=False):
            features = at_least_float32([states[-1], theirs[-1]])
            distances = self.FREQUENCY * frequency_distance(*features, self.HIGH)
            distances = distances + self.TIME * (features[0] - features[1]).square().mean(dim=(1, 2))
            distances = distances + softened(logits, targets, self.TEMPERATURE)
            return torch.stack([self.total(logits, labels), distances.sum()])

    def filtered(self, x: torch.Tensor) -> torch.Tensor:
        """Filter each of the waveforms (B, samples) with a randomly drawn FIR filter; length and alignment are kept."""
        taps = self.taps[torch.randint(len(self.taps), (len(x),), device=x.device)]
        n = x.shape[1] + taps.shape[1] - 1
        y = torch.fft.irfft(torch.fft.rfft(x.float(), n) * torch.fft.rfft(taps, n), n)
        start = taps.shape[1] // 2
        return y[:, start : start + x.shape[1]].to(x.dtype)

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        """The sum of the class weights, and the number of trials; (2,)."""
        return torch.stack([self.weight_of_classes(labels), torch.ones_like(labels, dtype=torch.float32).sum()])


def frequency_distance(student: torch.Tensor, teacher: torch.Tensor, high: float) -> torch.Tensor:
    """Mean squared differences (B,) between the amplitude spectra of features (B, T, C), from an orthonormal Fourier
    transform over time. The lowest bins, a fraction `high` (rounded down), are left out.
    """
    amplitudes = [torch.fft.rfft(features, dim=1, norm="ortho").abs() for features in (student, teacher)]
    first = int(high * amplitudes[0].shape[1])
    return (amplitudes[0] - amplitudes[1])[:, first:].square().mean(dim=(1, 2))


def softened(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Distillation loss T^2 KL(teacher || student) (B,) of logits (B, n), softened by a temperature T. Source: Hinton
    et al., "Distilling the knowledge in a neural network", 2015.
    """
    log_probabilities = F.log_softmax(logits / temperature, dim=1)
    targets = F.log_softmax(targets / temperature, dim=1)
    return temperature**2 * F.kl_div(log_probabilities, targets, reduction="none", log_target=True).sum(dim=1)
