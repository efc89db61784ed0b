"""Latent space refinement and augmentation: prototypes of spoofed speech, and synthetic spoof embeddings."""

import math

import torch
from torch.nn import functional as F

from model import Detector
from training import distributed
from training.objective import EmbeddingLoss


class LatentSpaceRefinement(EmbeddingLoss):
    """Softmax, with an angular margin, of the cosines to the bona fide prototype and to the nearest of several spoof
    prototypes. Two regularisers keep the spoof prototypes apart from each other and from the bona fide one.

    After Huang et al., "Generalizable audio deepfake detection via latent space refinement and augmentation", ICASSP
    2025. Scale, margin, number of prototypes, both regularisers and their weights are this project's own choice.
    """

    output = "prototypes"
    SCALE = 32.0  # of cosines
    MARGIN = 0.2  # radians
    INTRA, INTER = 0.1, 0.1  # weights of the regularisers

    def of_embeddings(self, detector: Detector, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        intra, inter = prototype_cosines(detector.back_end.output_layer()[1].weight)
        regularisers = self.INTRA * intra + self.INTER * inter
        return self.total(detector.decide(embeddings), labels) + len(labels) * regularisers

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        own, other = (outputs.gather(1, column.unsqueeze(1)).squeeze(1) for column in (labels, 1 - labels))
        return F.softplus(self.SCALE * (other - angular_margin(own, self.MARGIN))).sum()


class LatentSpaceAugmentation(LatentSpaceRefinement):
    """LatentSpaceRefinement that replaces half of the spoof embeddings by synthetic ones in training.

    Huang et al. name the five kinds; the strength and the probability of each are this project's own choice.
    """

    couples_trials = True
    PROBABILITY = 0.5

    def of_embeddings(self, detector: Detector, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return super().of_embeddings(detector, self.augmented(embeddings, labels == 0), labels)

    def augmented(self, z: torch.Tensor, spoof: torch.Tensor) -> torch.Tensor:
        """Embeddings z (B, D); where `spoof` (B,) bool holds, each is changed with probability 1/2 in one of five ways.
        In evaluation mode, z is returned unchanged.
        """
        if not self.training:
            return z
        n = len(z)
        share, step = torch.rand(2, n, 1, device=z.device)
        # Partner: another spoofed trial of this process's part of the batch, or itself if there is no other.
        order = torch.rand(n, n, device=z.device).masked_fill(~spoof, -2).fill_diagonal_(-1)
        totals = distributed.sum_of_all(torch.cat([(z * spoof.unsqueeze(1)).sum(dim=0), spoof.sum().view(1)]))
        made_up = made_up_embeddings(
            z,
            partner=z[order.argmax(dim=1)],
            centre=totals[:-1] / totals[-1].clamp(min=1),
            noise=0.1 * torch.randn_like(z),
            scale=torch.empty_like(z).uniform_(0.9, 1.1),
            shift=0.1 * torch.randn_like(z),
            share=share,
            step=0.5 * step,
        )
        way = torch.randint(len(made_up), (n,), device=z.device)
        chosen = spoof & (torch.rand(n, device=z.device) < self.PROBABILITY)
        return torch.where(chosen.unsqueeze(1), made_up[way, torch.arange(n, device=z.device)], z)


def angular_margin(cosines: torch.Tensor, margin: float) -> torch.Tensor:
    """Cosines with an angular margin: cos(arccos(c) + margin), or c - margin sin(margin) if the angle exceeds pi, where
    the cosine would rise again. Source: Deng et al., "ArcFace", CVPR 2019.
    """
    cosines = cosines.clamp(-1 + 1e-7, 1 - 1e-7)
    shifted = cosines * math.cos(margin) - (1 - cosines**2).sqrt() * math.sin(margin)
    return torch.where(cosines > -math.cos(margin), shifted, cosines - margin * math.sin(margin))


def prototype_cosines(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cosines between spoof prototypes, and between spoof and bona fide. weight (K + 1, D), bona fide last."""
    prototypes = F.normalize(weight, dim=1)
    spoof, n = prototypes[:-1], len(prototypes) - 1
    pairs = (spoof @ spoof.T).masked_fill(torch.eye(n, dtype=torch.bool, device=weight.device), 0)
    return pairs.sum() / max(n * (n - 1), 1), (spoof @ prototypes[-1]).mean()


def made_up_embeddings(
    z: torch.Tensor,
    partner: torch.Tensor,
    centre: torch.Tensor,
    noise: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    share: torch.Tensor,
    step: torch.Tensor,
) -> torch.Tensor:
    """Five synthetic versions (5, B, D) of embeddings z (B, D): with noise, after an affine map, mixed with a partner,
    moved towards the centre, and moved away from it.
    """
    return torch.stack(
        [
            z + noise,
            scale * z + shift,
            share * z + (1 - share) * partner,
            z + step * (centre - z),
            z + step * (z - centre),
        ]
    )
