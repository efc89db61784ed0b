"""Shapes of wav2vec 2.0, HuBERT and WavLM encoders, read from files of fairseq, Microsoft and Hugging Face."""

import ast
import math

import torch

from common.console import Number, check, shown, unfit
from front_ends.base import OtherFrontEnd

STRIDE, RECEPTIVE_FIELD = 320, 400
_YES_NO = (False, True)
# Training-only settings with the defaults of fairseq and Microsoft.
FAIRSEQ_TRAINING = {
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
    "feature_grad_mult": 1.0,
}
# {encoder setting: allowed values}: `normalize` (layer-normalise the waveform), `num_buckets` and `max_distance`
# (frames) of WavLM's position bias, and fields of fairseq's Wav2Vec2Config.
ENCODER_FIELDS = {
    "normalize": _YES_NO,
    "num_buckets": Number(int, 4, 10_000),
    "max_distance": Number(int, 2, 1_000_000),
    "extractor_mode": ("default", "layer_norm"),
    "conv_feature_layers": None,  # see convolutions
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
    **dict.fromkeys(FAIRSEQ_TRAINING, Number(float, 0, 1)),
    "feature_grad_mult": Number(float, 0, 1000),
}
# fairseq's defaults for settings that a file does not contain.
FAIRSEQ_DEFAULTS = {
    "extractor_mode": "default",
    "conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
    "conv_bias": False,
    "layer_norm_first": False,
    "activation_fn": "gelu",
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "pos_conv_depth": 1,
}
WAVLM_BIAS = {"num_buckets": 320, "max_distance": 800}


def complete(fields: dict) -> dict:
    """Complete shape: `fields` with fairseq's defaults, without training-only settings; convolutions as a list."""
    full = FAIRSEQ_DEFAULTS | {name: value for name, value in fields.items() if name not in FAIRSEQ_TRAINING}
    return full | {"conv_feature_layers": convolutions(full["conv_feature_layers"])}


def check_fields(fields: dict, relative_position: bool) -> None:
    """Raise ValueError with the reason if `fields` are not a valid encoder shape, see ENCODER_FIELDS."""
    for name in ("normalize", *WAVLM_BIAS) if relative_position else ("normalize",):
        check(name, fields.get(name), ENCODER_FIELDS[name])
    for name, value in fields.items():
        if name not in ENCODER_FIELDS:
            raise ValueError(f"unknown encoder setting {shown(name)}")
        if name == "conv_feature_layers":
            convolutions(value)
        else:
            check(name, value, ENCODER_FIELDS[name])
    full = complete(fields)
    for name in ("encoder_attention_heads", "conv_pos_groups"):
        if full["encoder_embed_dim"] % full[name]:
            raise ValueError(
                f"encoder_embed_dim {full['encoder_embed_dim']}, expected a multiple of {name} {full[name]}"
            )
    if full.get("max_distance", math.inf) <= full.get("num_buckets", 4) // 4:
        raise ValueError(f"max_distance {full['max_distance']}, expected more than a quarter of num_buckets")


def least_parameters(fields: dict) -> int:
    """Lower bound of the number of parameters: only large matrices and convolutions are counted."""
    full = complete(fields)
    width, extractor = full["encoder_embed_dim"], full["conv_feature_layers"]
    n = full["encoder_layers"] * width * (4 * width + 2 * full["encoder_ffn_embed_dim"])
    n += sum(c_in * c * kernel for (c_in, *_), (c, kernel, _) in zip([(1,), *extractor], extractor))
    n += (
        width * width // full["conv_pos_groups"] * (full["conv_pos"] // full["pos_conv_depth"] * full["pos_conv_depth"])
    )
    return n


def convolutions(text: object) -> list[tuple[int, int, int]]:
    """Parse fairseq's "[(512, 10, 5)] + [(512, 3, 2)] * 4" to [(channels, kernel, stride), ...].

    fairseq evaluates this text as Python, which would run arbitrary code from an untrusted file. Here only numbers,
    tuples, lists, + and * are allowed. Raises ValueError for anything else.
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
    except (MemoryError, ValueError, SyntaxError, TypeError, RecursionError):  # ast.parse can raise several of these
        raise ValueError(f"conv_feature_layers {shown(text, 80)}, expected [(channels, kernel, stride), ...]") from None
    if strides != STRIDE:
        raise ValueError(f"convolutions with stride {strides}, expected {STRIDE} samples per frame")
    field = 1
    for _, kernel, stride in reversed(convolutions):
        field = (field - 1) * stride + kernel
    if field != RECEPTIVE_FIELD:
        raise ValueError(f"convolutions with a receptive field of {field} samples, expected {RECEPTIVE_FIELD}")
    return convolutions


def fields_of(settings: dict, relative_position: bool) -> dict:
    """Shape and training-only settings (ENCODER_FIELDS) from the settings of a Hugging Face, fairseq or WavLM file.

    settings: {name: value} of its model; missing ones have fairseq's defaults. relative_position: WavLM is expected.
    Raises ValueError with the reason for an encoder of another kind.
    """
    read = _fields_of_hugging_face if "model_type" in settings else _fields_of_fairseq
    fields = read(settings, relative_position)
    check_fields(fields, relative_position)
    return fields


def _fields_of_fairseq(settings, relative_position):
    for name, choices in (("layer_type", ("transformer",)), ("pos_enc_type", ("abs",)), ("gru_rel_pos", _YES_NO)):
        if name in settings:
            check(name, settings[name], choices)
    for name in ("encoder_layers", "encoder_embed_dim"):
        if name not in settings:
            raise ValueError(f"settings without {name}")
    relative = settings.get("relative_position_embedding", False)
    check("relative_position_embedding", relative, _YES_NO)
    if relative != relative_position:
        kind, expected = ("WavLM", "wav2vec2") if relative else ("wav2vec 2.0", "WavLM")
        raise OtherFrontEnd(f"a {kind} encoder, expected one for {expected}")
    if relative and not settings.get("gru_rel_pos", True):
        raise ValueError("position bias without gates, expected gru_rel_pos")
    fields = {name: settings[name] for name in ENCODER_FIELDS if settings.get(name) is not None}
    if relative:
        fields = {"normalize": False, **fields}
        if missing := [name for name in WAVLM_BIAS if name not in fields]:
            raise ValueError(f"settings without {missing[0]}")
    else:
        fields = {name: value for name, value in fields.items() if name not in WAVLM_BIAS}
        fields["normalize"] = False  # anti-spoofing uses wav2vec 2.0 with the raw waveform, see xlsr_300m
    return fields


def _fields_of_hugging_face(settings, relative_position):
    kind, kinds = settings["model_type"], ("wavlm",) if relative_position else ("wav2vec2", "hubert")
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
    if relative_position:
        names |= {"num_buckets": "num_buckets", "max_distance": "max_bucket_distance"}
    convolutions = [settings.get(name) for name in ("conv_dim", "conv_kernel", "conv_stride")]
    if not all(isinstance(values, list) and len(values) == len(convolutions[0]) for values in convolutions):
        raise ValueError("settings without conv_dim, conv_kernel and conv_stride as lists of equal length")
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
    fields["normalize"] = relative_position and normalize
    if relative_position:
        fields = {**WAVLM_BIAS, **fields}  # Hugging Face has Microsoft's defaults
    return fields


def told_by_weights(state_dict: dict[str, torch.Tensor], relative_position: bool) -> dict:
    """Infer encoder fields from the names (fairseq's) and shapes of its weights.

    Raises ValueError with the reason if they are not an encoder's weights, or OtherFrontEnd, see fields_of.
    """
    relative = any(name.endswith(".grep_a") for name in state_dict)
    if relative != relative_position:
        raise OtherFrontEnd(f"a {'WavLM' if relative else 'wav2vec 2.0'} encoder")

    def shape(name, dimensions):
        found = state_dict[name].shape if name in state_dict else ()
        if len(found) != dimensions or 0 in found:
            raise ValueError(f"no {name} with {dimensions} dimensions")
        return found

    layers = {name.split(".")[2] for name in state_dict if name.startswith("encoder.layers.")}
    names = [f"feature_extractor.conv_layers.{i}.0.weight" for i in range(100)]
    last = max(
        (i for i, name in enumerate(names) if any(own.startswith(name.removesuffix("0.weight")) for own in state_dict)),
        default=-1,
    )
    sizes = [shape(name, 3) for name in names[: last + 1]]
    # Strides cannot be inferred; these are those of all published encoders.
    extractor = [(channels, kernel, 2 if i else 5) for i, (channels, _, kernel) in enumerate(sizes)]
    (width,) = shape("encoder.layer_norm.weight", 1)
    for i in range(len(layers)):  # report missing weights here, before a network is built
        for name in ("fc1", "fc2", *(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out"))):
            shape(f"encoder.layers.{i}.{name}.weight", 2)
    _, per_group, conv_pos = shape("encoder.pos_conv.0.weight_v", 3)
    told = {
        "extractor_mode": "layer_norm" if names[0].replace(".0.weight", ".2.1.weight") in state_dict else "default",
        "conv_feature_layers": str(extractor),
        "conv_bias": names[0].replace("weight", "bias") in state_dict,
        "encoder_layers": len(layers),
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": shape("encoder.layers.0.fc1.weight", 2)[0],
        "conv_pos": conv_pos,
        "conv_pos_groups": max(width // per_group, 1),
    }
    if relative:
        bias = shape("encoder.layers.0.self_attn.relative_attention_bias.weight", 2)
        told |= {"num_buckets": bias[0], "encoder_attention_heads": bias[1]}
    convolutions(told["conv_feature_layers"])
    return told


# (part of a name in Hugging Face or torchaudio, part in fairseq), replaced in this order.
_HUGGING_FACE_NAMES = (
    ("encoder.feature_projection.", "feature_projection."),  # torchaudio; its other names are those of Hugging Face
    ("encoder.transformer.", "encoder."),
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


# For pre-training only; no detector uses them.
_PRETRAINING_HEADS = ("quantizer.", "project_q.", "target_glu.", "final_proj.", "label_embs_concat")
_PRETRAINING_HEADS += ("project_hid.", "lm_head.")  # in Hugging Face


def fairseq_names(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a state dict from Hugging Face or torchaudio to fairseq's names, and drop pre-training heads."""
    if any("feature_projection." in name for name in state_dict):
        state_dict = _from_hugging_face(state_dict)
    return {name: tensor for name, tensor in state_dict.items() if not name.startswith(_PRETRAINING_HEADS)}


def _from_hugging_face(state_dict):
    group_norm = not any(name.endswith("conv_layers.1.layer_norm.weight") for name in state_dict)
    renamed = {}
    for name, tensor in state_dict.items():
        head, _, rest = name.partition(".")
        name = rest if head in ("wav2vec2", "hubert", "wavlm") else name
        for theirs, ours in _HUGGING_FACE_NAMES:
            name = name.replace(theirs, ours)
        if name.startswith("encoder.layers.") and ".layer_norm." in name:
            name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
        if name.startswith("feature_extractor."):
            norm = "2" if group_norm else "2.1"
            name = name.replace(".conv.", ".0.").replace(".layer_norm.", f".{norm}.")
        renamed[name] = tensor
    # Some files lack the embedding of masked frames, which only pre-training uses.
    if "encoder.layer_norm.weight" in renamed:
        renamed.setdefault("mask_emb", torch.zeros(renamed["encoder.layer_norm.weight"].shape[:1]))
    return renamed
