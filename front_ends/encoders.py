"""Speech encoders, from waveforms to hidden states, and the aggregations of hidden states into features.

The encoders are fairseq's own Wav2Vec2Model, built from its own configuration, with attention of ours in its layers;
that of WavLM is relative. Nothing else here imports fairseq.
Axes: B trials, T frames, C channels, H heads, L hidden states. The stride is 320 samples, the receptive field 400.
"""

import ast
import contextlib
import logging
import math
import sys
import types
import warnings
from collections import namedtuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from common.console import Number, UserError, check, shown, unfit

SAMPLE_RATE = 16000
STRIDE, RECEPTIVE_FIELD = 320, 400

# What shapes an encoder, and what a file may say of it: `normalize` (is the waveform layer-normalised first), WavLM's
# `num_buckets` and `max_distance` (frames) of its position bias, and fields of fairseq's Wav2Vec2Config.
_YES_NO = (False, True)
_DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "dropout_input", "encoder_layerdrop")
ENCODER_FIELDS = {
    "normalize": _YES_NO,
    "num_buckets": Number(int, 4, 10_000),
    "max_distance": Number(int, 2, 1_000_000),
    "extractor_mode": ("default", "layer_norm"),
    "conv_feature_layers": None,  # see _convolutions
    "conv_bias": _YES_NO,
    "layer_norm_first": _YES_NO,
    "activation_fn": ("relu", "gelu", "gelu_fast", "gelu_accurate", "tanh", "linear", "swish"),
    "encoder_layers": Number(int, 1, 200),
    "encoder_embed_dim": Number(int, 1, 100_000),
    "encoder_ffn_embed_dim": Number(int, 1, 1_000_000),
    "encoder_attention_heads": Number(int, 1, 1000),
    "conv_pos": Number(int, 1, 10_000),
    "conv_pos_groups": Number(int, 1, 100_000),
    "pos_conv_depth": Number(int, 1, 100),
    "feature_grad_mult": Number(float, 0, 1000),
    **dict.fromkeys(_DROPOUTS, Number(float, 0, 1)),
}
_FAIRSEQ_FIELDS = tuple(name for name in ENCODER_FIELDS if name not in ("normalize", "num_buckets", "max_distance"))
_NO_DROPOUT = dict.fromkeys(_DROPOUTS, 0.0)
_LARGE = {
    **_NO_DROPOUT,
    "extractor_mode": "layer_norm",
    "layer_norm_first": True,
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
}
_WAVLM = {"num_buckets": 320, "max_distance": 800}

# front_ends: the families that may have this shape; file: the published file of its pre-trained weights.
Preset = namedtuple("Preset", "front_ends file fields")
PRESETS = {
    # Babu et al., "XLS-R", 2021. The published detectors feed it the raw waveform, though its own configuration
    # asks for a normalised one.
    "xlsr_300m": Preset(("wav2vec2",), "xlsr2_300m.pt", {**_LARGE, "normalize": False, "conv_bias": True}),
    # Chen et al., "WavLM", 2022, table I and the released configuration.
    "wavlm_large": Preset(("WavLM",), "WavLM-Large.pt", {**_LARGE, **_WAVLM, "normalize": True, "conv_bias": False}),
    # Its first 12 layers, which AttM_LSTM was published on (Pan et al., 2024).
    "wavlm_large_12": Preset(
        ("WavLM",),
        "WavLM-Large.pt",
        {**_LARGE, **_WAVLM, "normalize": True, "conv_bias": False, "encoder_layers": 12},
    ),
    # For the demo and the tests: randomly initialised, the same code path in small. A group norm over time
    # (extractor_mode "default") makes a frame depend on the whole waveform.
    "tiny": Preset(
        ("wav2vec2", "WavLM"),
        None,
        {
            **_NO_DROPOUT,
            **_WAVLM,
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
    ),
}
# --ssl from_file: the shape that stands in the file of pre-trained weights.
FROM_FILE = "from_file"


def n_frames(n_samples):
    """Number of frames that the encoder makes of n_samples: (n - 400) // 320 + 1, and 0 below 400 samples."""
    return max((n_samples - RECEPTIVE_FIELD) // STRIDE + 1, 0)


class Encoder(nn.Module):
    """wav2vec 2.0 or WavLM without pre-training heads: waveforms (B, samples) to hidden states, L times (B, T, C).

    fields: its shape, see ENCODER_FIELDS. relative_position: WavLM's gated relative position bias.
    The hidden states are the input of every transformer layer, then the encoder's output (after its final layer
    norm where it has one): L = layers + 1.
    Source: Baevski et al., "wav2vec 2.0", 2020; Chen et al., "WavLM", 2022.
    """

    def __init__(self, fields, relative_position=False):
        super().__init__()
        self.model = _wav2vec2_model({name: fields[name] for name in _FAIRSEQ_FIELDS if name in fields})
        self.model.remove_pretraining_modules()
        config = self.model.cfg
        sizes = config.encoder_embed_dim, config.encoder_attention_heads, config.attention_dropout
        for i, layer in enumerate(self.model.encoder.layers):
            if config.activation_fn == "gelu":
                layer.activation_fn = F.gelu  # the same, without fairseq's copies in float32
            if relative_position:
                buckets = (fields["num_buckets"], fields["max_distance"]) if i == 0 else None
                layer.self_attn = RelativeAttention(*sizes, buckets)
            else:
                layer.self_attn = Attention(*sizes)
        self.relative_position = relative_position
        self.normalize = fields["normalize"]
        self.channels = config.encoder_embed_dim
        self.n_hidden_states = config.encoder_layers + 1
        # Do samples past the last frame change nothing? A group norm over time sees the whole waveform.
        self.trims_to_frames = config.extractor_mode == "layer_norm"

    def normalized(self, waveforms):
        """Waveforms (B, samples) as the network takes them: layer-normalised each where the encoder wants it so."""
        return F.layer_norm(waveforms, waveforms.shape[-1:]) if self.normalize else waveforms

    def forward(self, waveforms, normalized=False, raw_last=False):
        """normalized: `waveforms` have passed `self.normalized` already, whole, before they were trimmed.

        raw_last: the last hidden state is the last layer's output, before the final layer norm.
        """
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
        x = F.dropout(x, encoder.dropout, self.training).transpose(0, 1)  # fairseq's layers take (T, B, C)
        bias = encoder.layers[0].self_attn.position_bias(len(x)) if self.relative_position else None
        hidden_states = []
        for layer in encoder.layers:
            hidden_states.append(x)
            # torch's generator, not numpy's as in fairseq: it is the one that a resumed run restores.
            if not (self.training and encoder.layerdrop > 0 and torch.rand(()) < encoder.layerdrop):
                # The padding mask is the one argument that fairseq's layer hands its attention both with the norm
                # first and with the norm last; without padding it is free for the bias.
                x, _ = layer(x, self_attn_padding_mask=bias)
        hidden_states.append(encoder.layer_norm(x) if encoder.layer_norm_first and not raw_last else x)
        return [state.transpose(0, 1) for state in hidden_states]

    def _features(self, waveforms):
        from fairseq.modules import GradMultiply

        scale = self.model.feature_grad_mult
        with torch.set_grad_enabled(torch.is_grad_enabled() and scale > 0):
            extractor = self.model.feature_extractor
            x = channels_last(extractor, waveforms) if self.trims_to_frames else extractor(waveforms)
        return x if scale in (0, 1) else GradMultiply.apply(x, scale)


def channels_last(extractor, waveforms):
    """fairseq's ConvFeatureExtractionModel with layer norms, (B, samples) -> (B, C, T), whose channels stay last in
    memory, so that nothing is transposed for a norm.
    """
    x = waveforms[:, None, :, None].permute(0, 3, 1, 2)  # (B, C, 1, T), told to be channels last by its strides
    for convolution, dropout, (_, norm, _), activation in extractor.conv_layers:
        x = F.conv2d(x, convolution.weight.unsqueeze(2), convolution.bias, stride=(1, *convolution.stride))
        x = activation(norm(dropout(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    return x.squeeze(2)


class Attention(nn.Module):
    """Self-attention in the place of fairseq's, of linear layers that can be quantised. (T, B, C) -> (T, B, C).

    weigh: of queries, keys and values, each (B, H, T, C / H), and a mask that is added, the weighted values.
    """

    weigh = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, channels, heads, dropout):
        super().__init__()
        self.num_heads, self.dropout_module = heads, nn.Dropout(dropout)  # named as in fairseq's
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)
        for projection in (self.k_proj, self.v_proj, self.q_proj, self.out_proj):  # as fairseq initialises its own
            nn.init.normal_(projection.weight, std=0.02)
            nn.init.zeros_(projection.bias)

    def forward(self, query, key, value, key_padding_mask=None, **_):
        """query, key, value: the same (T, B, C)."""
        return self._attend(query, None), None

    def _attend(self, x, mask):
        frames, trials, channels = x.shape
        q, k, v = (
            projection(x).view(frames, trials, self.num_heads, -1).permute(1, 2, 0, 3)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = mask if mask is None else mask.to(q.dtype)
        dropout = self.dropout_module.p if self.training else 0.0
        x = self.weigh(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(x.permute(2, 0, 1, 3).reshape(frames, trials, channels))


class RelativeAttention(Attention):
    """Self-attention with WavLM's gated relative position bias. (T, B, C) -> (T, B, C).

    buckets: (number of buckets, distance in frames beyond which all share the last), in the first layer, whose bias
    embedding all layers share; else None. Parameter names are those of Microsoft's release.
    Source: Chen et al., "WavLM", 2022, section III-B; buckets of Raffel et al., "T5", 2020, both directions.
    """

    def __init__(self, channels, heads, dropout, buckets):
        super().__init__(channels, heads, dropout)
        self.grep_linear = nn.Linear(channels // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))
        if buckets is not None:
            n_buckets, self.max_distance = buckets
            self.relative_attention_bias = nn.Embedding(n_buckets, heads)
            nn.init.normal_(self.relative_attention_bias.weight, std=0.02)

    def position_bias(self, n_frames):
        """The bias (H, T, T) of every query and key by their distance. In the first layer only."""
        weight = self.relative_attention_bias.weight
        distance = torch.arange(1 - n_frames, n_frames, device=weight.device)  # key minus query
        half = len(weight) // 2
        exact = half // 2
        # Buckets of one frame near by, of logarithmic width further off; keys after the query have their own half.
        far = exact + (
            torch.log(distance.abs().clamp(min=1).float() / exact)
            / math.log(self.max_distance / exact)
            * (half - exact)
        )
        bucket = torch.where(distance.abs() < exact, distance.abs(), far.long().clamp(max=half - 1))
        by_distance = weight[bucket + half * (distance > 0)].T  # (H, 2 T - 1)
        return by_distance.unfold(1, n_frames, 1).flip(1)  # row i: the keys as query i sees them

    def forward(self, query, key, value, key_padding_mask, **_):
        """query, key, value: the same (T, B, C); key_padding_mask: the bias (H, T, T), see Encoder.forward."""
        frames, trials, _ = query.shape
        by_head = query.view(frames, trials, self.num_heads, -1).permute(1, 2, 0, 3)  # (B, H, T, C / H)
        gates = torch.sigmoid(self.grep_linear(by_head).unflatten(-1, (2, 4)).sum(-1))
        gate = gates[..., :1] * (gates[..., 1:] * self.grep_a - 1) + 2  # (B, H, T, 1)
        return self._attend(query, gate * key_padding_mask), None


def _wav2vec2_model(overrides):
    # Importing fairseq takes a second, says things that are not for our users, and turns on everybody's debugging
    # messages.
    logging.getLogger("fairseq").setLevel(logging.ERROR)
    level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _stand_in(*_NOT_NEEDED):
            from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

        logging.getLogger().setLevel(level)
        config = Wav2Vec2Config()
        # fairseq would pad an odd number of frames to an even one and then attend with a mask.
        config.required_seq_len_multiple = 1
        for name, value in overrides.items():
            setattr(config, name, value)
        config.conv_feature_layers = str(_convolutions(config.conv_feature_layers))
        return Wav2Vec2Model(config)


_NOT_NEEDED = ("sklearn", "sklearn.metrics", "scipy.stats", "torch.utils.tensorboard")


@contextlib.contextmanager
def _stand_in(*names):
    """Within, an import of a module that is not in memory yet gives an empty one.

    What fairseq imports for tasks of its own takes as long as all the rest of it.
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


class empty_weights(TorchFunctionMode):
    """Within, weights are not initialised: memory is asked for and not touched. They are about to be loaded with
    `assign=True`, and nothing else may be done with them.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (
            torch.Tensor.normal_,
            torch.Tensor.uniform_,
        ):
            return args[0] if args else kwargs["tensor"]
        if func is torch._weight_norm:  # every forward pass makes this product anew
            return args[0].detach()
        return func(*args, **kwargs)


def build_front_end(config):
    """Build the encoder that a ModelConfig describes, with random weights.

    Returns a module from waveforms (B, samples) at 16 kHz to the list of its hidden states, each (B, T, C), with
    attributes `channels` (C) and `n_hidden_states`.
    """
    fields = config.ssl_config if config.ssl == FROM_FILE else PRESETS[config.ssl].fields
    return Encoder(fields, relative_position=config.front_end == "WavLM")


def same_shape(a, b):
    """Are two shapes the same, where what is not said has fairseq's default?"""
    return _full(a) == _full(b)


def _full(fields):
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config

    full = {name: getattr(Wav2Vec2Config(), name) for name in _FAIRSEQ_FIELDS} | fields
    full["conv_feature_layers"] = _convolutions(full["conv_feature_layers"])
    return full | {name: str(full[name]) for name in ("extractor_mode", "activation_fn")}


def check_fields(fields):
    """Raises ValueError, saying why, where `fields` are no shape of an encoder, see ENCODER_FIELDS."""
    for name, value in fields.items():
        if name not in ENCODER_FIELDS:
            raise ValueError(f"{shown(name)}, which shapes no encoder")
        if name == "conv_feature_layers":
            _convolutions(value)
        else:
            check(name, value, ENCODER_FIELDS[name])
    full = _full(fields)
    for name in ("encoder_attention_heads", "conv_pos_groups"):
        if full["encoder_embed_dim"] % full[name]:
            raise ValueError(
                f"encoder_embed_dim {full['encoder_embed_dim']}, expected a multiple of {name} {full[name]}"
            )
    if full.get("max_distance", math.inf) <= full.get("num_buckets", 4) // 4:
        raise ValueError(f"max_distance {full['max_distance']}, expected more than a quarter of num_buckets")


def check_encoder(fields, state_dict):
    """Raises ValueError where `fields` ask for more parameters than a state dict has, before anything is built.

    fields: as check_fields lets pass. Counted are those that grow fast; loading compares each one.
    """
    full = _full(fields)
    width, extractor = full["encoder_embed_dim"], full["conv_feature_layers"]
    n = full["encoder_layers"] * width * (4 * width + 2 * full["encoder_ffn_embed_dim"])
    n += sum(c_in * c * kernel for (c_in, *_), (c, kernel, _) in zip([(1,), *extractor], extractor))
    n += (
        width * width // full["conv_pos_groups"] * (full["conv_pos"] // full["pos_conv_depth"] * full["pos_conv_depth"])
    )
    n_found = sum(tensor.numel() for tensor in state_dict.values())
    if n > n_found:
        raise ValueError(f"settings of at least {n:,} parameters, its weights are {n_found:,}")


def _convolutions(text):
    """[(channels, kernel, stride), ...] of what fairseq writes as "[(512, 10, 5)] + [(512, 3, 2)] * 4".

    fairseq evaluates this text as Python; from a file of a stranger that would run any code. Here it is numbers,
    tuples, lists, + and * alone. Raises ValueError for anything else.
    """

    def value(node):
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and type(node.value) is int and 0 < node.value <= 10_000:
            return node.value
        if isinstance(node, ast.Tuple):
            return tuple(value(element) for element in node.elts)
        if isinstance(node, ast.List):
            return [value(element) for element in node.elts]
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
                return left + right
            if isinstance(node.op, ast.Mult) and isinstance(left, list) and right in range(100):
                return left * right
        raise ValueError

    try:
        if not isinstance(text, str) or len(text) > 10_000:
            raise ValueError
        convolutions = value(ast.parse(text.strip(), mode="eval"))
        if (
            not convolutions
            or len(convolutions) > 100
            or any(len(layer) != 3 or any(type(number) is not int for number in layer) for layer in convolutions)
        ):
            raise ValueError
        strides = math.prod(stride for _, _, stride in convolutions)
    except (MemoryError, ValueError, SyntaxError, TypeError, RecursionError):  # of which the parser raises some
        raise ValueError(f"conv_feature_layers {shown(text, 80)}, expected [(channels, kernel, stride), ...]") from None
    if strides != STRIDE:
        raise ValueError(f"convolutions of stride {strides}, expected {STRIDE} samples a frame")
    field = 1
    for _, kernel, stride in reversed(convolutions):
        field = (field - 1) * stride + kernel
    if field != RECEPTIVE_FIELD:
        raise ValueError(f"convolutions over {field} samples, expected {RECEPTIVE_FIELD}")
    return convolutions


class OtherFrontEnd(ValueError):
    """Settings of an encoder of another family than the one expected."""


def fields_of_fairseq(settings, front_end):
    """The shape (ENCODER_FIELDS) that the settings of a fairseq or WavLM checkpoint describe.

    settings: {name: value} of its model. What is not there has fairseq's default. Raises ValueError, saying why, for
    an encoder that is of another kind.
    """
    for name, choices in (("layer_type", ("transformer",)), ("pos_enc_type", ("abs",)), ("gru_rel_pos", _YES_NO)):
        if name in settings:
            check(name, settings[name], choices)
    for name in ("encoder_layers", "encoder_embed_dim"):
        if name not in settings:
            raise ValueError(f"settings without {name}")
    relative = settings.get("relative_position_embedding", False)
    check("relative_position_embedding", relative, _YES_NO)
    if relative != (front_end == "WavLM"):
        kind = "WavLM" if relative else "wav2vec 2.0"
        raise OtherFrontEnd(f"a {kind} encoder, expected one for {front_end}")
    if front_end == "WavLM" and not settings.get("gru_rel_pos", True):
        raise ValueError("position bias without gates, expected gru_rel_pos")
    fields = {name: settings[name] for name in ENCODER_FIELDS if settings.get(name) is not None}
    if front_end == "WavLM":
        fields = {"normalize": False, **fields}
        if missing := [name for name in _WAVLM if name not in fields]:
            raise ValueError(f"settings without {missing[0]}")
    else:
        fields = {name: value for name, value in fields.items() if name not in _WAVLM}
        fields["normalize"] = False  # the field feeds wav2vec 2.0 the raw waveform, see xlsr_300m
    check_fields(fields)
    return fields


def fields_of_hugging_face(settings, front_end):
    """The same of a Hugging Face config.json."""
    kind, kinds = settings.get("model_type"), ("wavlm",) if front_end == "WavLM" else ("wav2vec2", "hubert")
    if unfit(kind, kinds):
        raise OtherFrontEnd(f"model_type {shown(kind)}, expected {' or '.join(kinds)}")
    names = {
        "conv_bias": "conv_bias",
        "layer_norm_first": "do_stable_layer_norm",
        "activation_fn": "hidden_act",
        "encoder_layers": "num_hidden_layers",
        "encoder_embed_dim": "hidden_size",
        "encoder_ffn_embed_dim": "intermediate_size",
        "encoder_attention_heads": "num_attention_heads",
        "conv_pos": "num_conv_pos_embeddings",
        "conv_pos_groups": "num_conv_pos_embedding_groups",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "activation_dropout": "activation_dropout",
        "dropout_input": "feat_proj_dropout",
        "encoder_layerdrop": "layerdrop",
    }
    if front_end == "WavLM":
        names |= {"num_buckets": "num_buckets", "max_distance": "max_bucket_distance"}
    convolutions = [settings.get(name) for name in ("conv_dim", "conv_kernel", "conv_stride")]
    if not all(isinstance(values, list) and len(values) == len(convolutions[0]) for values in convolutions):
        raise ValueError("settings without conv_dim, conv_kernel and conv_stride, lists of one length")
    check("feat_extract_norm", settings.get("feat_extract_norm"), ("group", "layer"))
    for name in ("num_hidden_layers", "hidden_size"):
        if name not in settings:
            raise ValueError(f"settings without {name}")
    for ours, theirs in names.items():
        if theirs in settings:
            check(theirs, settings[theirs], ENCODER_FIELDS[ours])
    fields = {ours: settings[theirs] for ours, theirs in names.items() if theirs in settings}
    fields["conv_feature_layers"] = str(list(zip(*convolutions)))
    fields["extractor_mode"] = {"group": "default", "layer": "layer_norm"}[settings["feat_extract_norm"]]
    normalize = settings.get("do_normalize", settings["feat_extract_norm"] == "layer")
    check("do_normalize", normalize, _YES_NO)
    fields["normalize"] = front_end == "WavLM" and normalize
    if front_end == "WavLM":
        fields = {**_WAVLM, **fields}  # Hugging Face's defaults are Microsoft's
    check_fields(fields)
    return fields


# Hugging Face's name of a part -> fairseq's, one after the other.
_HUGGING_FACE_NAMES = (
    ("masked_spec_embed", "mask_emb"),
    ("feature_projection.layer_norm.", "layer_norm."),
    ("feature_projection.projection.", "post_extract_proj."),
    ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv.0.weight_g"),
    ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv.0.weight_v"),
    ("encoder.pos_conv_embed.conv.", "encoder.pos_conv.0."),
    (".attention.rel_attn_embed.", ".self_attn.relative_attention_bias."),
    (".attention.gru_rel_pos_linear.", ".self_attn.grep_linear."),
    (".attention.gru_rel_pos_const", ".self_attn.grep_a"),
    (".attention.", ".self_attn."),
    (".feed_forward.intermediate_dense.", ".fc1."),
    (".feed_forward.output_dense.", ".fc2."),
)


def fairseq_names(state_dict, fields):
    """A Hugging Face state dict of wav2vec 2.0, HuBERT or WavLM under fairseq's names, pre-training heads dropped."""
    renamed = {}
    for name, tensor in state_dict.items():
        head, _, rest = name.partition(".")
        name = rest if head in ("wav2vec2", "hubert", "wavlm") else name
        if name.startswith(("quantizer.", "project_q.", "project_hid.", "lm_head.")):
            continue
        for theirs, ours in _HUGGING_FACE_NAMES:
            name = name.replace(theirs, ours)
        if name.startswith("encoder.layers.") and ".layer_norm." in name:
            name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
        if name.startswith("feature_extractor."):
            norm = "2" if fields["extractor_mode"] == "default" else "2.1"
            name = name.replace(".conv.", ".0.").replace(".layer_norm.", f".{norm}.")
        renamed[name] = tensor
    # Some files leave out the embedding of masked frames, which only pre-training uses.
    renamed.setdefault("mask_emb", torch.zeros(fields["encoder_embed_dim"]))
    return renamed


class Last(nn.Module):
    """The encoder's output alone."""

    def forward(self, hidden_states):
        return hidden_states[-1]


def _gated_sum(gates, hidden_states):
    """Sum of hidden states, L times (B, T, C), under gates (B, L) or (L,), without a copy of all states together."""
    total = None
    for gate, state in zip(gates.unbind(-1), hidden_states):
        gate = gate[..., None, None]
        total = gate * state if total is None else torch.addcmul(total, gate, state)
    return total


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
        return _gated_sum(self.fc_att_merge(means), hidden_states)


class WeightedSum(nn.Module):
    """Hidden states under learnt weights that a softmax makes sum to 1. L (B, T, C) -> (B, T, C).

    Source: Yang et al., "SUPERB", 2021, section 2.
    """

    def __init__(self, n_layers):
        super().__init__()
        self.weight_hidd = nn.Parameter(torch.ones(n_layers))

    def forward(self, hidden_states):
        return _gated_sum(torch.softmax(self.weight_hidd, dim=0), hidden_states)


class AttM(nn.Module):
    """Attentive merging: a gate per hidden state, then one projection of all. L (B, T, C) -> (B, T, C).

    Source: Pan et al., "Attentive merging of hidden embeddings from pre-trained speech model for anti-spoofing
    detection", Interspeech 2024 (arXiv 2406.10283); its projection has one layer here, as published with Nes2Net.
    """

    def __init__(self, n_layers, channels):
        super().__init__()
        self.W = nn.Parameter(torch.randn(channels, 1))
        self.W1 = nn.Parameter(torch.randn(n_layers, n_layers // 2))
        self.W2 = nn.Parameter(torch.randn(n_layers // 2, n_layers))
        self.linear_proj = nn.Linear(n_layers * channels, channels)

    def forward(self, hidden_states):
        means = torch.stack([state.mean(dim=1) for state in hidden_states], dim=1)  # (B, L, C)
        gates = torch.sigmoid(F.silu(F.silu(means @ self.W).squeeze(-1) @ self.W1) @ self.W2)  # (B, L)
        # The projection's input has the layers side by side in every channel: its part for one layer at a time
        # spares a copy of all states.
        weights = self.linear_proj.weight.unflatten(1, (-1, len(hidden_states)))  # (C, C, L)
        return self.linear_proj.bias + sum(
            gates[:, i, None, None] * (state @ weights[..., i].T) for i, state in enumerate(hidden_states)
        )


def build_aggregation(config, n_layers, channels):
    """Build the aggregation that `config.agg` names, over n_layers hidden states of `channels` channels.

    Returns a module from the list of hidden states, each (B, T, C), to features (B, T, C).
    Raises UserError where the encoder has too few hidden states.
    """
    if config.agg == "last":
        return Last()
    if config.agg == "WeightedSum":
        return WeightedSum(n_layers)
    if n_layers < 3:
        raise UserError(f"--agg {config.agg}: expected an encoder of at least 2 layers, found {n_layers - 1}")
    return SEA(n_layers) if config.agg == "SEA" else AttM(n_layers, channels)
