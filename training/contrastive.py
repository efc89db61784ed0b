"""A supervised contrastive loss of embeddings, beside cross-entropy."""

import torch
from torch.nn import functional as F

from model import Detector
from training import distributed
from training.cross_entropy import WeightedCrossEntropy
from training.objective import EmbeddingLoss


class SupervisedContrastive(WeightedCrossEntropy, EmbeddingLoss):
    """Cross-entropy of two logits with a weight per class, plus the supervised contrastive loss of the embeddings.

    After Tran et al., "Spoofed speech detection with a focus on speaker embedding", Interspeech 2024, whose temperature
    and weight of the second term are unknown; 0.1 and 1 are this project's own choice, as is the embedding: what the
    first layer of the MLP gives. The loss is L_out of Khosla et al., "Supervised contrastive learning", NeurIPS 2020,
    eq. 2.
    """

    couples_trials = True
    TEMPERATURE = 0.1

    def of_embeddings(self, detector: Detector, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(2,): the sums of the cross-entropies and of the contrastive losses."""
        rows, there, own = distributed.rows_of_all(F.normalize(embeddings, dim=1))
        losses = contrastive_losses(rows, self._labels_of_all(labels, there), self.TEMPERATURE)
        return torch.stack([self.total(detector.decide(embeddings), labels), losses[own].sum()])

    def weight(self, labels: torch.Tensor) -> torch.Tensor:
        """(2,): the sum of the class weights, and the number of trials that have another of their class."""
        rows, there, _ = distributed.rows_of_all(labels)
        n_alike = (labels.unsqueeze(1) == rows.masked_fill(~there, -1)).sum(dim=1)
        return torch.stack([self.weight_of_classes(labels), (n_alike > 1).sum().to(self.class_weights.dtype)])

    @staticmethod
    def _labels_of_all(labels, there):
        rows, _, _ = distributed.rows_of_all(labels)
        return rows.masked_fill(~there, -1)


def contrastive_losses(embeddings: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Losses (N,) of embeddings of length 1 (N, D) and labels (N,), -1 for rows that are none. For trial i, with others
    p of its class: the mean over p of -log(exp(z_i.z_p / t) / sum of exp(z_i.z_a / t) over all a but i); 0 without any.
    """
    similarities = embeddings @ embeddings.T / temperature
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device) & (labels >= 0)
    log_shares = similarities - similarities.masked_fill(~others, -1e9).logsumexp(dim=1, keepdim=True)
    positives = others & (labels.unsqueeze(1) == labels)
    return -log_shares.masked_fill(~positives, 0).sum(dim=1) / positives.sum(dim=1).clamp(min=1)
