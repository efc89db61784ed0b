"""One-class knowledge distillation: a student learns on bona fide speech alone what a teacher makes of it."""

import torch
from torch.nn import functional as F

from model import Detector, Teacher, agreement
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
            apart = 2 - agreement(states, theirs) - F.cosine_similarity(embeddings, target, dim=1)
            return (apart * labels).sum()

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return ((1 - outputs[:, 0]) * labels).sum()

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        return labels.sum().float()
