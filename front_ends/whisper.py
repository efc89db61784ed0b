"""Whisper's encoder: log-mel spectrogram, two convolutions, pre-norm transformer layers.

Source: Radford et al., "Robust speech recognition via large-scale weak supervision", 2022, section 2.2, and the
released features and weights; used for anti-spoofing by Kawa et al., Interspeech 2023. Parameter names are those of
Hugging Face's encoder.
Axes: B trials, T frames, C channels, M mel bands.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from common.console import Number, check, shown
from front_ends.attention import Attention, LayerNorm
from front_ends.base import FrontEnd, OtherFrontEnd, Preset, with_prompts
from front_ends.log_mel import HOP, N_FFT, log_mel, mel_filters

FIELDS = {
    "d_model": Number(int, 4, 100_000),
    "encoder_layers": Number(int, 1, 200),
    "encoder_attention_heads": Number(int, 1, 1000),
    "encoder_ffn_dim": Number(int, 1, 1_000_000),
    "num_mel_bins": Number(int, 1, 128),
}


def _preset(name, channels, layers, n_mels=80):
    sizes = (channels, layers, channels // 64, 4 * channels, n_mels)
    return Preset(f"whisper-{name}", dict(zip(FIELDS, sizes, strict=True)))


class Whisper(FrontEnd):
    """Waveforms (B, samples) to encoder_layers + 1 hidden states (B, T, d_model), one frame per 320 samples.

    fields: see FIELDS, named as in Hugging Face's config.json. The hidden states are the input of every layer, then the
    encoder's output after its final layer norm. The spectrogram has the length of the waveform and is not padded to
    30 s as in the released code. Position embeddings are cut to it; beyond 30 s they continue by the same formula.
    Values are floored at 8 (log10) below the maximum of the utterance, so the hidden states depend on all samples.
    """

    presets = {
        "whisper_tiny": _preset("tiny", 384, 4),
        "whisper_base": _preset("base", 512, 6),
        "whisper_small": _preset("small", 768, 12),
        "whisper_medium": _preset("medium", 1024, 24),
        "whisper_large_v2": _preset("large-v2", 1280, 32),
        "whisper_large_v3": _preset("large-v3", 1280, 32, n_mels=128),
    }
    # 1024 channels, as most back-ends were published with.
    published = {"ssl": "whisper_medium", "agg": "last", "dilation": 2, "n_output_logits": 2}
    allowed = FIELDS
    least_samples = N_FFT

    def __init__(self, fields: dict) -> None:
        super().__init__(fields)
        self.register_buffer("filters", mel_filters(fields["num_mel_bins"]), persistent=False)
        self.model = _Encoder(fields)

    @classmethod
    def sizes(cls, fields: dict) -> tuple[int, int]:
        return fields["d_model"], fields["encoder_layers"] + 1

    def n_frames(self, n_samples: int) -> int:
        """Number of frames: the last spectrogram frame is dropped, the convolutions halve the others."""
        return (n_samples // HOP + 1) // 2

    def layers(self) -> nn.ModuleList:
        return self.model.layers

    def unused_parameters(self, raw_last: bool) -> tuple[str, ...]:
        return ("model.layer_norm.",) if raw_last else ()

    def features(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Whisper's log-mel features, (B, samples) -> (B, M, samples // 160)."""
        x = log_mel(waveforms, self.filters, center=True)[..., :-1]
        x = torch.maximum(x, x.amax(dim=(1, 2), keepdim=True) - 8)
        return (x + 4) / 4

    def forward(
        self,
        waveforms: torch.Tensor,
        normalized: bool = False,
        raw_last: bool = False,
        prompts: Callable[[int, int], torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        model = self.model
        x = F.gelu(model.conv2(F.gelu(model.conv1(self.features(waveforms)))))  # (B, C, T)
        x = x.transpose(1, 2).contiguous()  # (B, T, C)
        x = x + sinusoids(x.shape[1], self.channels).to(x)
        states = []
        for i, layer in enumerate(model.layers):
            x = with_prompts(x, i, prompts)
            states.append(x)
            x = layer(x)
        states.append(x if raw_last else model.layer_norm(x))
        return states

    @classmethod
    def check_fields(cls, fields: dict) -> None:
        super().check_fields(fields)
        if fields["d_model"] % (2 * fields["encoder_attention_heads"]):
            heads = f"encoder_attention_heads {fields['encoder_attention_heads']}"
            raise ValueError(f"d_model {fields['d_model']}, expected an even multiple of {heads}")

    @classmethod
    def least_parameters(cls, fields: dict) -> int:
        width = fields["d_model"]
        return fields["encoder_layers"] * width * (4 * width + 2 * fields["encoder_ffn_dim"])

    @classmethod
    def fields_of(cls, settings: dict) -> dict:
        if settings.get("model_type") != "whisper":
            found = f"model_type {shown(settings['model_type'])}" if "model_type" in settings else "settings of fairseq"
            raise OtherFrontEnd(f"{found}, expected model_type whisper")
        check("activation_function", settings.get("activation_function"), ("gelu",))
        fields = {name: settings.get(name) for name in FIELDS}
        cls.check_fields(fields)
        return fields

    @classmethod
    def weights_of(cls, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Encoder weights of a full Whisper, an encoder alone, or an audio classifier of Hugging Face."""
        kept = {}
        for name, tensor in state_dict.items():
            name = name.removeprefix("model.")
            if not name.startswith(("decoder.", "proj_out.", "projector.", "classifier.", "layer_weights")):
                kept[name.removeprefix("encoder.")] = tensor
        positions = kept.pop("embed_positions.weight", None)
        if positions is not None:
            expected = sinusoids(*positions.shape) if positions.dim() == 2 and positions.shape[1] > 3 else None
            # Tolerance: they may be float16, and float32 sines of angles up to 1,500 are accurate to 1e-4.
            if expected is None or not torch.allclose(positions.float(), expected, rtol=0, atol=1e-3):
                raise ValueError("embed_positions.weight without Whisper's sinusoids")
        return kept


def sinusoids(n_frames: int, channels: int) -> torch.Tensor:
    """Position embeddings (T, C): sines of C / 2 frequencies from 1 to 1 / 10,000 radians per frame, then cosines."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    angles = torch.arange(n_frames).unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _Encoder(nn.Module):
    def __init__(self, fields: dict) -> None:
        super().__init__()
        channels, heads, width = fields["d_model"], fields["encoder_attention_heads"], fields["encoder_ffn_dim"]
        self.conv1 = nn.Conv1d(fields["num_mel_bins"], channels, 3, padding=1)
        self.conv2 = nn.Conv1d(channels, channels, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(_Layer(channels, heads, width) for _ in range(fields["encoder_layers"]))
        self.layer_norm = LayerNorm(channels)


class _Layer(nn.Module):
    """Pre-norm transformer layer, (B, T, C) -> (B, T, C)."""

    def __init__(self, channels: int, heads: int, width: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads, dropout=0.0, key_bias=False)
        self.self_attn_layer_norm = LayerNorm(channels)
        self.fc1 = nn.Linear(channels, width)
        self.fc2 = nn.Linear(width, channels)
        self.final_layer_norm = LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn(normed, normed, normed)[0]
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
