"""Supervised contrastive loss of embeddings, added to cross-entropy."""

import torch
from torch.nn import functional as F

from model import Detector
from training import distributed
from training.cross_entropy import WeightedCrossEntropy
from training.objective import EmbeddingLoss


class SupervisedContrastive(WeightedCrossEntropy, EmbeddingLoss):
    """Weighted cross-entropy of two logits plus the supervised contrastive loss of the embeddings.

    After Tran et al., "Spoofed speech detection with a focus on speaker embedding", Interspeech 2024, whose temperature
    and weight of the second term are unknown; 0.1 and 1 are this project's own choice, as is the embedding, the output
    of the MLP's first layer. The loss is L_out of Khosla et al., "Supervised contrastive learning", NeurIPS 2020,
    eq. 2.
    """

    couples_trials = True
    TEMPERATURE = 0.1

    def of_embeddings(self, detector: Detector, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sums (2,) of the cross-entropies and of the contrastive losses."""
        rows, is_trial, own = distributed.rows_of_all(F.normalize(embeddings, dim=1))
        losses = contrastive_losses(rows, self._labels_of_all(labels, is_trial), self.TEMPERATURE)
        return torch.stack([self.total(detector.decide(embeddings), labels), losses[own].sum()])

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        """(2,): the sum of the class weights, and the number of trials with another one of their class in the batch."""
        rows, is_trial, _ = distributed.rows_of_all(labels)
        n_alike = (labels.unsqueeze(1) == rows.masked_fill(~is_trial, -1)).sum(dim=1)
        return torch.stack([self.weight_of_classes(labels), (n_alike > 1).sum().to(self.class_weights.dtype)])

    @staticmethod
    def _labels_of_all(labels, is_trial):
        rows, _, _ = distributed.rows_of_all(labels)
        return rows.masked_fill(~is_trial, -1)


def contrastive_losses(embeddings: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Supervised contrastive losses (N,) of unit-norm embeddings (N, D) and labels (N,), -1 for padding rows.

    For trial i: the mean, over all other trials p of its class, of -log(exp(z_i.z_p / t) / sum of exp(z_i.z_a / t) over
    all a but i); 0 if there is no such p.
    """
    similarities = embeddings @ embeddings.T / temperature
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device) & (labels >= 0)
    log_shares = similarities - similarities.masked_fill(~others, -1e9).logsumexp(dim=1, keepdim=True)
    positives = others & (labels.unsqueeze(1) == labels)
    return -log_shares.masked_fill(~positives, 0).sum(dim=1) / positives.sum(dim=1).clamp(min=1)
