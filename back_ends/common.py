"""Parts that several back-ends share."""

import torch


def repeat_frames(features, least):
    """Features (..., T, C) repeated from their start until there are at least `least` frames.

    For the few networks that pool over time before anything else, so that no utterance is too short to score.
    """
    n_frames = features.shape[-2]
    if n_frames >= least:
        return features
    return features[..., torch.arange(least, device=features.device) % n_frames, :]
