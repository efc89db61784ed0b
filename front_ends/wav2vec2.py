"""wav2vec 2.0, HuBERT and WavLM encoders.

The encoders are fairseq's Wav2Vec2Model with its configuration; its self-attention is replaced by attention.py, for
WavLM with relative positions. No other file imports fairseq.
Axes: B trials, T frames, C channels. The frame shift is 320 samples, the receptive field 400.
"""

import contextlib
import logging
import sys
import types
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from front_ends import pretrained
from front_ends.attention import Attention, LayerNorm, RelativeAttention
from front_ends.base import FrontEnd, Preset, with_prompts
from front_ends.pretrained import FAIRSEQ_DEFAULTS, FAIRSEQ_TRAINING, RECEPTIVE_FIELD, STRIDE, WAVLM_BIAS, convolutions

_LARGE = {
    "extractor_mode": "layer_norm",
    "layer_norm_first": True,
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
}
# A small encoder with random weights for the demo and tests. With its group norm over time (extractor_mode "default"),
# every frame depends on the whole waveform.
_TINY = Preset(
    None,
    {
        **WAVLM_BIAS,
        "normalize": True,
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
)


class Wav2Vec2(FrontEnd):
    """wav2vec 2.0 or HuBERT without pre-training heads: waveforms (B, samples) to hidden states, L of (B, T, C).

    fields: its shape, and training-only settings that are not off, see pretrained.ENCODER_FIELDS.
    The hidden states are the input of every transformer layer, then the encoder's output (after its final layer
    norm, if it has one): L = layers + 1.
    Source: Baevski et al., "wav2vec 2.0", 2020; Hsu et al., "HuBERT", 2021.
    """

    relative_position = False
    least_samples = RECEPTIVE_FIELD
    in_training = FAIRSEQ_TRAINING
    not_acting = {**dict.fromkeys(FAIRSEQ_TRAINING, 0.0), "feature_grad_mult": 1.0}
    presets = {
        # Babu et al., "XLS-R", 2021. The published detectors use the raw waveform, although the configuration of XLS-R
        # specifies a normalised one.
        "xlsr_300m": Preset("xlsr2_300m.pt", {**_LARGE, "normalize": False, "conv_bias": True}),
        "tiny": _TINY,
    }
    # Source: Liu et al. 2025, section IV, and the released commands.
    published = {"ssl": "xlsr_300m", "agg": "last", "dilation": 2, "n_output_logits": 2}

    def __init__(self, fields: dict) -> None:
        super().__init__(fields)
        own = {name: fields[name] for name in (*FAIRSEQ_DEFAULTS, *FAIRSEQ_TRAINING) if name in fields}
        self.model = _wav2vec2_model(self.not_acting | own)
        self.model.remove_pretraining_modules()
        config = self.model.cfg
        sizes = config.encoder_embed_dim, config.encoder_attention_heads, config.attention_dropout
        for i, layer in enumerate(self.model.encoder.layers):
            if config.activation_fn == "gelu":
                layer.activation_fn = F.gelu  # the same function without fairseq's copies in float32
            if self.relative_position:
                buckets = (fields["num_buckets"], fields["max_distance"]) if i == 0 else None
                layer.self_attn = RelativeAttention(*sizes, buckets)
            else:
                layer.self_attn = Attention(*sizes)
        for name, module in dict(self.model.named_modules()).items():
            if isinstance(module, nn.LayerNorm):
                self.model.set_submodule(name, LayerNorm(module.normalized_shape, module.eps))
        self.normalize = fields["normalize"]
        # Samples after the last frame have no effect, except with a group norm, which spans the whole waveform.
        self.trims_to_frames = config.extractor_mode == "layer_norm"

    @classmethod
    def sizes(cls, fields: dict) -> tuple[int, int]:
        full = cls.complete(fields)
        return full["encoder_embed_dim"], full["encoder_layers"] + 1

    @staticmethod
    def n_frames(n_samples: int) -> int:
        """Number of frames: (n_samples - 400) // 320 + 1, and 0 below 400 samples."""
        return max((n_samples - RECEPTIVE_FIELD) // STRIDE + 1, 0)

    def samples_seen(self, n_samples: int) -> int:
        return RECEPTIVE_FIELD + STRIDE * (self.n_frames(n_samples) - 1) if self.trims_to_frames else n_samples

    def layers(self) -> nn.ModuleList:
        return self.model.encoder.layers

    def parts_to_compile(self) -> list[tuple[nn.Module, str]]:
        return [(self, "extract"), *super().parts_to_compile()]

    def unused_parameters(self, raw_last: bool) -> tuple[str, ...]:
        names = ["model.mask_emb"]  # for pre-training only
        if raw_last and self.model.encoder.layer_norm_first:
            names.append("model.encoder.layer_norm.")
        if self.model.feature_grad_mult == 0:
            names.append("model.feature_extractor.")
        return tuple(names)

    def training_places(self) -> dict[str, list[tuple[object, str]]]:
        model, encoder, layers = self.model, self.model.encoder, self.model.encoder.layers
        return {
            "dropout": [(encoder, "dropout"), *((d, "p") for it in layers for d in (it.dropout1, it.dropout3))],
            "attention_dropout": [(layer.self_attn.dropout_module, "p") for layer in layers],
            "activation_dropout": [(layer.dropout2, "p") for layer in layers],
            "dropout_input": [(model.dropout_input, "p")],
            "encoder_layerdrop": [(encoder, "layerdrop")],
            "feature_grad_mult": [(model, "feature_grad_mult")],
        }

    complete = staticmethod(pretrained.complete)
    least_parameters = staticmethod(pretrained.least_parameters)
    weights_of = staticmethod(pretrained.fairseq_names)

    @classmethod
    def check_fields(cls, fields: dict) -> None:
        pretrained.check_fields(fields, cls.relative_position)

    @classmethod
    def fields_of(cls, settings: dict) -> dict:
        return pretrained.fields_of(settings, cls.relative_position)

    @classmethod
    def fields_of_weights(cls, state_dict: dict[str, torch.Tensor]) -> dict:
        """Infer the fields from the weights of a published detector's encoder.

        Fields that cannot be inferred are those of the preset that agrees with the inferred ones. Without such a preset
        they are as in the published encoders: norm first if the convolutions have layer norms; 12 heads at 768
        channels, otherwise 16 (inferred for WavLM); waveform normalisation as in the published preset.
        """
        inferred = pretrained.told_by_weights(state_dict, cls.relative_position)
        for preset in cls.presets.values():
            if cls.complete(preset.fields | inferred) == cls.complete(preset.fields):
                return preset.fields
        usual = {
            "normalize": cls.presets[cls.published["ssl"]].fields["normalize"],
            "layer_norm_first": inferred["extractor_mode"] == "layer_norm",
            "encoder_attention_heads": 12 if inferred["encoder_embed_dim"] == 768 else 16,
        }
        usual |= {"max_distance": WAVLM_BIAS["max_distance"]} if cls.relative_position else {}
        fields = {**usual, **inferred}
        cls.check_fields(fields)
        return fields

    def forward(
        self,
        waveforms: torch.Tensor,
        normalized: bool = False,
        raw_last: bool = False,
        prompts: Callable[[int, int], torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        model, encoder = self.model, self.model.encoder
        if waveforms.shape[-1] < RECEPTIVE_FIELD:
            raise ValueError(f"expected at least {RECEPTIVE_FIELD} samples, found {waveforms.shape[-1]}")
        x = self._features(waveforms if normalized else self.normalized(waveforms)).transpose(1, 2)
        x = model.layer_norm(x)  # (B, T, channels of the convolutions)
        if model.post_extract_proj is not None:
            x = model.post_extract_proj(x)
        x = model.dropout_input(x)
        x = x + encoder.pos_conv(x.transpose(1, 2)).transpose(1, 2)
        if not encoder.layer_norm_first:
            x = encoder.layer_norm(x)
        # fairseq's layers expect (T, B, C), but only their attention, replaced here, depends on the order of the axes.
        x = F.dropout(x, encoder.dropout, self.training)
        hidden_states, bias = [], None
        for i, layer in enumerate(encoder.layers):
            x = with_prompts(x, i, prompts)
            if self.relative_position and i == 0:
                bias = layer.self_attn.position_bias(x.shape[1])
            hidden_states.append(x)
            # Layerdrop with torch's generator, which a resumed run restores, not with numpy's as in fairseq.
            if not (self.training and encoder.layerdrop > 0 and torch.rand(()) < encoder.layerdrop):
                # fairseq's layer passes only the padding mask to its attention in both norm orders. There is no padding
                # here, so this argument carries the position bias.
                x, _ = layer(x, self_attn_padding_mask=bias)
        hidden_states.append(encoder.layer_norm(x) if encoder.layer_norm_first and not raw_last else x)
        return hidden_states

    def _features(self, waveforms):
        from fairseq.modules import GradMultiply

        scale = self.model.feature_grad_mult
        with torch.set_grad_enabled(torch.is_grad_enabled() and scale > 0):
            x = self.extract(waveforms)
        return x if scale in (0, 1) else GradMultiply.apply(x, scale)

    def extract(self, waveforms: torch.Tensor) -> torch.Tensor:
        """fairseq's ConvFeatureExtractionModel, (B, samples) -> (B, C, T).

        With layer norms, tensors are kept channels-last in memory to avoid a transposition per norm.
        """
        extractor = self.model.feature_extractor
        if not self.trims_to_frames:
            return extractor(waveforms)
        x = waveforms[:, None, :, None].permute(0, 3, 1, 2)  # (B, C, 1, T) with channels-last strides
        for convolution, dropout, (_, norm, _), activation in extractor.conv_layers:
            x = F.conv2d(x, convolution.weight.unsqueeze(2), convolution.bias, stride=(1, *convolution.stride))
            x = activation(norm(dropout(x).permute(0, 2, 3, 1)).type_as(x)).permute(0, 3, 1, 2)
        return x.squeeze(2)


class WavLM(Wav2Vec2):
    """WavLM: Wav2Vec2 with a gated relative position bias. Further fields: num_buckets, max_distance (frames).

    Source: Chen et al., "WavLM", 2022.
    """

    relative_position = True
    presets = {
        # Table I and the released configuration.
        "wavlm_large": Preset("WavLM-Large.pt", {**_LARGE, **WAVLM_BIAS, "normalize": True, "conv_bias": False}),
        # The same with the raw waveform, as in Microsoft's code: detectors of Liu et al. for ASVspoof 5.
        "wavlm_large_raw": Preset("WavLM-Large.pt", {**_LARGE, **WAVLM_BIAS, "normalize": False, "conv_bias": False}),
        # Its first 12 layers, with the normalised waveform and with the raw one. AttM_LSTM was published with the raw
        # one (Pan et al., 2024).
        "wavlm_large_12": Preset(
            "WavLM-Large.pt",
            {**_LARGE, **WAVLM_BIAS, "normalize": True, "conv_bias": False, "encoder_layers": 12},
            first_layers=True,
        ),
        "wavlm_large_12_raw": Preset(
            "WavLM-Large.pt",
            {**_LARGE, **WAVLM_BIAS, "normalize": False, "conv_bias": False, "encoder_layers": 12},
            first_layers=True,
        ),
        "tiny": _TINY,
    }
    published = {"ssl": "wavlm_large", "agg": "SEA", "dilation": 1, "n_output_logits": 1}


def _wav2vec2_model(overrides):
    # Importing fairseq takes a second, logs messages that are irrelevant to users, and sets the root logger to debug.
    logging.getLogger("fairseq").setLevel(logging.ERROR)
    level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _stand_in(*_NOT_NEEDED):
            from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

        logging.getLogger().setLevel(level)
        config = Wav2Vec2Config()
        # Otherwise fairseq pads an odd number of frames by one and masks it in the attention.
        config.required_seq_len_multiple = 1
        for name, value in overrides.items():
            setattr(config, name, value)
        config.conv_feature_layers = str(convolutions(config.conv_feature_layers))
        return Wav2Vec2Model(config)


_NOT_NEEDED = ("sklearn", "sklearn.metrics", "scipy.stats", "torch.utils.tensorboard")


@contextlib.contextmanager
def _stand_in(*names):
    """Context in which importing the named modules gives empty ones, unless they are already imported.

    Importing the modules that fairseq needs only for its own tasks takes as long as the rest of fairseq.
    """

    class Empty(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return None

    names = [name for name in names if name not in sys.modules]
    sys.modules.update({name: Empty(name) for name in names})
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
