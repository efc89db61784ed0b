"""One-class knowledge distillation: a student learns on bona fide speech alone what a teacher makes of it."""

import torch
from torch.nn import functional as F

from model import Detector, Teacher, agreement, at_least_float32
from training.objective import EmbeddingLoss


class OneClassDistillation(EmbeddingLoss):
    """Of bona fide trials: 1 - the mean cosine of the student's hidden states with the teacher's, plus 1 - that of the
    embeddings. The score is the first cosine: on what the student never learned, the two agree less. The dev loss
    is the first term.

    After Lu et al., "One-class knowledge distillation for spoofing speech detection", ICASSP 2024: a teacher that knows
    both classes, a student of bona fide speech, and the cosine are theirs. Which layers, their weights, the score and
    the recipe are this project's own choice.
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
        detector.teacher = teacher  # it takes part in the score, and so is in the checkpoint

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
        """Distances (B,) between student and teacher: of hidden states, lists of (B, T, C), and embeddings (B, D)."""
        return 2 - agreement(states, theirs) - F.cosine_similarity(embeddings, target, dim=1)

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return ((1 - outputs[:, 0]) * labels).sum()

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        return labels.sum().float()


class OneClassDistance(OneClassDistillation):
    """The same with mean squared differences for cosines, which Lu et al. compare with and found worse. The score and
    the dev loss stay those of the cosine. The input of the first layer is left out, as in `agreement`.
    """

    def distances(
        self, states: list[torch.Tensor], theirs: list[torch.Tensor], embeddings: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        pairs = zip(at_least_float32(states[1:]), at_least_float32(theirs[1:]), strict=True)
        of_layers = torch.stack([(state - other).square().mean(dim=(1, 2)) for state, other in pairs])
        return of_layers.mean(dim=0) + (embeddings - target).square().mean(dim=1)
