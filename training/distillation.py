"""One-class knowledge distillation: a student learns to imitate a teacher on bona fide speech only."""

import torch
from torch.nn import functional as F

from model import Detector, Teacher, agreement, at_least_float32
from training.objective import EmbeddingLoss


class OneClassDistillation(EmbeddingLoss):
    """Distance between student and teacher on bona fide trials: (1 - mean cosine of their hidden states) + (1 - cosine
    of their embeddings). The score of a trial is the first cosine, because student and teacher agree less on speech
    that the student was not trained on. The dev loss is the first term.

    After Lu et al., "One-class knowledge distillation for spoofing speech detection", ICASSP 2024, who propose a
    teacher trained on both classes, a student trained on bona fide speech, and the cosine. The layers, their weights,
    the score and the recipe are this project's own choice.
    """

    n_outputs = 1
    output = "agreement"
    bonafide_only = True
    needs_teacher = True

    @classmethod
    def model_fields(cls, teacher: dict | None) -> dict:
        fields = {"output": cls.output}
        return fields if teacher is None else {**teacher, **fields, "n_output_logits": 1, "teacher": teacher}

    def take_teacher(self, detector: Detector, teacher: Teacher) -> None:
        detector.teacher = teacher  # scoring needs the teacher, so it is saved in the checkpoint

    def of_detector(self, detector: Detector, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        states = detector.hidden_states(x)
        embeddings = detector.embed(states)
        with torch.no_grad():
            theirs = detector.teacher.hidden_states(x)
            target = detector.teacher.embed(theirs)
        with torch.autocast(x.device.type, enabled=False):
            return (self.distances(states, theirs, embeddings, target) * labels).sum()

    def distances(
        self, states: list[torch.Tensor], theirs: list[torch.Tensor], embeddings: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Distances (B,) of student and teacher, from hidden states, lists of (B, T, C), and embeddings (B, D)."""
        return 2 - agreement(states, theirs) - F.cosine_similarity(embeddings, target, dim=1)

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return ((1 - outputs[:, 0]) * labels).sum()

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        return labels.sum().float()


class OneClassDistance(OneClassDistillation):
    """OneClassDistillation with mean squared differences instead of cosines, the variant that Lu et al. found worse.

    Score and dev loss still use the cosine. The input of the first layer is left out, as in `agreement`.
    """

    def distances(
        self, states: list[torch.Tensor], theirs: list[torch.Tensor], embeddings: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        pairs = zip(at_least_float32(states[1:]), at_least_float32(theirs[1:]), strict=True)
        of_layers = torch.stack([(state - other).square().mean(dim=(1, 2)) for state, other in pairs])
        return of_layers.mean(dim=0) + (embeddings - target).square().mean(dim=1)
