"""Speech encoders, from waveforms to hidden states, and the aggregations of hidden states into features.

The encoder is fairseq's own Wav2Vec2Model, built from its own configuration; nothing else here imports fairseq.
Axes: B trials, T frames, C channels, L hidden states. The stride is 320 samples and the receptive field 400.
"""

import logging
import warnings

import torch
from torch import nn
from torch.nn import functional as F

from console import UserError

SAMPLE_RATE = 16000
STRIDE, RECEPTIVE_FIELD = 320, 400

_LARGE = {
    "extractor_mode": "layer_norm",
    "layer_norm_first": True,
    "conv_bias": True,
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
}
_NO_DROPOUT = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "dropout_features": 0.0,
    "encoder_layerdrop": 0.0,
}

# name -> (is the waveform layer-normalised first, published file of pre-trained weights, its Wav2Vec2Config)
PRESETS = {
    # Babu et al., "XLS-R", 2021. The published detectors feed it the raw waveform, though its own configuration
    # asks for a normalised one.
    "xlsr_300m": (False, "xlsr2_300m.pt", {**_LARGE, **_NO_DROPOUT, "final_dim": 768, "quantize_targets": True}),
    # For the demo and the tests: randomly initialised, the same code path in small. A group norm over time
    # (extractor_mode "default") makes a frame depend on the whole waveform.
    "tiny": (
        True,
        None,
        {
            **_NO_DROPOUT,
            "extractor_mode": "default",
            "conv_feature_layers": "[(16, 10, 5)] + [(32, 3, 2)] * 2 + [(64, 3, 2)] * 2 + [(64, 2, 2)] * 2",
            "layer_norm_first": True,
            "encoder_layers": 2,
            "encoder_embed_dim": 64,
            "encoder_ffn_embed_dim": 128,
            "encoder_attention_heads": 4,
            "conv_pos": 16,
            "conv_pos_groups": 4,
        },
    ),
}


def n_frames(n_samples):
    """Number of frames that the encoder makes of n_samples: (n - 400) // 320 + 1, and 0 below 400 samples."""
    return max((n_samples - RECEPTIVE_FIELD) // STRIDE + 1, 0)


class Wav2Vec2(nn.Module):
    """wav2vec 2.0 without its pre-training heads: waveforms (B, samples) to its hidden states, L times (B, T, C).

    The hidden states are the input of every transformer layer, then the encoder's output (after its final layer
    norm where it has one): L = layers + 1. Source: Baevski et al., "wav2vec 2.0", 2020.
    """

    def __init__(self, overrides, normalize):
        super().__init__()
        self.model = _wav2vec2_model(overrides)
        self.model.remove_pretraining_modules()
        self.normalize = normalize
        self.channels = self.model.cfg.encoder_embed_dim
        self.n_hidden_states = len(self.model.encoder.layers) + 1

    def forward(self, waveforms):
        model, encoder = self.model, self.model.encoder
        if waveforms.shape[-1] < RECEPTIVE_FIELD:
            raise ValueError(f"expected at least {RECEPTIVE_FIELD} samples, found {waveforms.shape[-1]}")
        if self.normalize:
            waveforms = F.layer_norm(waveforms, waveforms.shape[-1:])
        x = self._features(waveforms).transpose(1, 2)  # (B, T, channels of the convolutions)
        x = model.layer_norm(x)
        if model.post_extract_proj is not None:
            x = model.post_extract_proj(x)
        x = model.dropout_input(x)
        x = x + encoder.pos_conv(x.transpose(1, 2)).transpose(1, 2)
        if not encoder.layer_norm_first:
            x = encoder.layer_norm(x)
        x = F.dropout(x, encoder.dropout, self.training).transpose(0, 1)  # fairseq's layers take (T, B, C)
        hidden_states = []
        for layer in encoder.layers:
            hidden_states.append(x)
            # torch's generator, not numpy's as in fairseq: it is the one that a resumed run restores.
            if not (self.training and encoder.layerdrop > 0 and torch.rand(()) < encoder.layerdrop):
                x, _ = layer(x)
        hidden_states.append(encoder.layer_norm(x) if encoder.layer_norm_first else x)
        return [state.transpose(0, 1) for state in hidden_states]

    def _features(self, waveforms):
        from fairseq.modules import GradMultiply

        scale = self.model.feature_grad_mult
        with torch.set_grad_enabled(torch.is_grad_enabled() and scale > 0):
            x = self.model.feature_extractor(waveforms)
        return x if scale in (0, 1) else GradMultiply.apply(x, scale)


def _wav2vec2_model(overrides):
    # Importing fairseq takes two seconds and says things that are not for our users.
    logging.getLogger("fairseq").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.getLogger().level
        from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

        logging.getLogger().setLevel(level)  # it has turned everybody's debugging messages on
        config = Wav2Vec2Config()
        # fairseq would pad an odd number of frames to an even one and then attend with a mask.
        config.required_seq_len_multiple = 1
        for name, value in overrides.items():
            setattr(config, name, value)
        return Wav2Vec2Model(config)


def build_front_end(config):
    """Build the encoder that `config.ssl` names, with random weights.

    Returns a module from waveforms (B, samples) at 16 kHz to the list of its hidden states, each (B, T, C), with
    attributes `channels` (C) and `n_hidden_states`. Raises UserError for an unknown name.
    """
    if config.ssl not in PRESETS:
        raise UserError(f"--ssl: expected one of {', '.join(PRESETS)}, found {config.ssl}")
    normalize, _, overrides = PRESETS[config.ssl]
    return Wav2Vec2(overrides, normalize)


class Last(nn.Module):
    """The encoder's output alone."""

    def forward(self, hidden_states):
        return hidden_states[-1]


class SEA(nn.Module):
    """Squeeze-and-excitation aggregation: a gate per hidden state, from all states' means. L (B, T, C) -> (B, T, C).

    Source: Guragain et al., "Speech foundation model ensembles for the CtrSVDD challenge 2024", arXiv 2409.02302.
    """

    def __init__(self, n_layers):
        super().__init__()
        squeezed = n_layers // 3
        self.fc_att_merge = nn.Sequential(
            nn.Linear(n_layers, squeezed, bias=False),
            nn.ReLU(),
            nn.Linear(squeezed, n_layers, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, hidden_states):
        means = torch.stack([state.mean(dim=(1, 2)) for state in hidden_states], dim=1)  # (B, L)
        gates = self.fc_att_merge(means)[..., None, None]
        return sum(gate * state for gate, state in zip(gates.unbind(1), hidden_states))


def build_aggregation(config, n_layers, channels):
    """Build the aggregation that `config.agg` names, over n_layers hidden states of `channels` channels.

    Returns a module from the list of hidden states, each (B, T, C), to features (B, T, C).
    Raises UserError where the encoder has too few hidden states.
    """
    if config.agg == "last":
        return Last()
    if n_layers < 3:
        raise UserError(f"--agg {config.agg}: expected an encoder of at least 2 layers, found {n_layers - 1}")
    return SEA(n_layers)
