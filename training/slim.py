"""SLIM in two stages: style and linguistics features that agree on bona fide speech, then a classifier."""

import dataclasses

import torch

from back_ends.slim import SLIM
from model import Detector, Teacher
from training import distributed
from training.cross_entropy import WeightedCrossEntropy
from training.objective import Loss


class StyleLinguisticsDependency(Loss):
    """First stage, on bona fide trials: the squared distance between the two groups of features (columns normalised
    over the batch), plus LAMBDA times each group's distance from orthonormal columns. The dev loss is the mismatch,
    1 - cosine.

    After Zhu et al., NeurIPS 2024; see back_ends/slim.py. The formula follows Zhang et al., "From canonical correlation
    analysis to self-supervised graph neural networks", NeurIPS 2021, eq. 5. LAMBDA is this project's own choice.
    """

    n_outputs = 1
    bonafide_only = True
    couples_trials = True
    sensible_batch = 257  # in smaller batches, 256 columns cannot be orthonormal
    LAMBDA = 0.01

    @classmethod
    def model_fields(cls, teacher: dict | None) -> dict:
        return {"n_output_logits": 1}

    @classmethod
    def check_detector(cls, detector: Detector) -> None:
        if not isinstance(detector.back_end, SLIM):
            raise ValueError(f"trains SLIM only, found {detector.config.back_end}")

    def of_detector(self, detector: Detector, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        states = detector.hidden_states(x)
        with torch.autocast(x.device.type, enabled=False):
            back_end = detector.back_end
            groups = back_end.dependencies(*(group.float() for group in back_end.subspaces(states)))
            # Every process computes the loss of the whole batch and weights it by the number of its own trials.
            (style, is_trial, _), (linguistics, *_) = map(distributed.rows_of_all, groups)
            terms = dependency_terms(style, linguistics, is_trial)
            return (terms[0] + self.LAMBDA * (terms[1] + terms[2])) * labels.sum()

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return ((1 - outputs[:, 0]) * labels).sum()

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        return labels.sum().float()


class StyleLinguisticsClassifier(WeightedCrossEntropy):
    """Second stage: weighted cross-entropy of SLIM's classifier. The compression modules (frozen) and the encoder come
    from --teacher, a detector of the first stage; --SSL_freeze_epoch freezes the encoder.
    """

    needs_teacher = True

    @classmethod
    def model_fields(cls, teacher: dict | None) -> dict:
        is_slim = teacher is not None and teacher["model_name"].endswith("_SLIM")
        return {**teacher, "n_output_logits": 2} if is_slim else {"n_output_logits": 2}

    @classmethod
    def check_detector(cls, detector: Detector) -> None:
        StyleLinguisticsDependency.check_detector(detector)

    @classmethod
    def check_teacher(cls, detector: Detector, teacher: Teacher) -> None:
        outputs = teacher.config.n_output_logits
        if dataclasses.replace(detector.config, n_output_logits=outputs) != teacher.config:
            expected = f"a {detector.config.model_name} with the same encoder and options"
            raise ValueError(f"expected {expected}, found a different {teacher.config.model_name}")

    def take_teacher(self, detector: Detector, teacher: Teacher) -> None:
        detector.front_end.load_state_dict(teacher.front_end.state_dict())
        for name in ("style", "linguistics"):
            detector.back_end.get_submodule(name).load_state_dict(teacher.back_end.get_submodule(name).state_dict())
        detector.back_end.freeze_dependencies()


def dependency_terms(style: torch.Tensor, linguistics: torch.Tensor, is_trial: torch.Tensor) -> torch.Tensor:
    """Loss terms (3,): the squared distance between two groups of features (N, D), and the squared distance of each
    group's correlation matrix from the identity. Columns are normalised over the rows where is_trial (N,) holds.
    """
    style, linguistics = (normalised_columns(features, is_trial) for features in (style, linguistics))
    unit = torch.eye(style.shape[1], dtype=style.dtype, device=style.device)
    redundancies = [(features.T @ features - unit).square().sum() for features in (style, linguistics)]
    return torch.stack([(style - linguistics).square().sum(), *redundancies])


def normalised_columns(features: torch.Tensor, is_trial: torch.Tensor) -> torch.Tensor:
    """Features (N, D) minus their mean over the rows with is_trial, columns scaled to unit norm; other rows are 0."""
    is_trial = is_trial.unsqueeze(1).to(features.dtype)
    centred = (features - (features * is_trial).sum(dim=0) / is_trial.sum().clamp(min=1)) * is_trial
    return centred / centred.square().sum(dim=0).clamp(min=1e-12).sqrt()
