"""Released detectors: the layouts of published state dicts, read off names and shapes."""

from back_ends import BACK_ENDS, build_back_end
from checkpoints.folders import facts_of_name
from checkpoints.format import below, weights_of
from common.console import UserError, shown
from front_ends import AGGREGATIONS, FROM_FILE, FRONT_ENDS, empty_weights
from model import OPTION_FLAGS, ModelConfig, option_value


class AmbiguousModel(UserError):
    """A published checkpoint that fits several models, `names`."""

    def __init__(self, path, names):
        super().__init__(f"{path}: fits {' and '.join(names)}, which no weight tells apart; --model_name says which")
        self.names = names


def check_flags(path, config, flags):
    """Raises UserError for a model flag that disagrees with the configuration of a checkpoint."""
    for name, value in flags.items():
        if name not in _OPTIONS:
            _check_flag(path, f"--{name}", value, value, getattr(config, name))
    for name, value in _options_of(flags).items():
        flag = f"--{name}" if name in OPTION_FLAGS else f"--back_end_options {name}"
        _check_flag(path, flag, value, option_value(config.back_end, name, value), config.options[name])


def _check_flag(path, flag, given, value, trained):
    if value != trained:
        raise UserError(f"{flag}: {path} was trained with {trained}, found {given}")


_OPTIONS = (*OPTION_FLAGS, "back_end_options")


def _options_of(flags):
    """The options of a back-end among model flags, {name: value}."""
    return {name: flags[name] for name in OPTION_FLAGS if name in flags} | flags.get("back_end_options", {})


def state_dict_of(path, content):
    """The state dict of a file of tensors, without what other programs wrap around it."""
    for wrapping in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
            break
    content = weights_of(path, content)
    if any(name.startswith("feature_extractor.") for name in content):
        raise UserError(f"{path}: expected a detector, found a pre-trained encoder; train.py --ssl_path takes it")
    return content


# Where a published state dict keeps its encoder: WavLM came through a wrapper, the LGF family, wedefense (through
# s3prl) and MoE (a Hugging Face model) have names of their own.
_S3PRL, _HUGGING_FACE = "frontend.upstream.upstream.model.", "pretrain_model."
_FRONT_END_PREFIXES = ("ssl_model.model.model.", "ssl_model.model.", "m_ssl.model.", _S3PRL, _HUGGING_FACE)


def read_published(path, state_dict, flags):
    """What read_detector returns, of a published state dict: its architecture is read off names and shapes."""
    for prefix in _FRONT_END_PREFIXES:
        encoder = below(prefix, state_dict)
        if encoder:
            break
    else:
        raise UserError(f"{path}: expected weights under {' or '.join(_FRONT_END_PREFIXES)}, found none")
    rest = {name: tensor for name, tensor in state_dict.items() if not name.startswith(prefix)}
    encoder = FRONT_ENDS["wav2vec2"].weights_of(encoder)  # and WavLM's, by the same names
    norm = encoder.get("encoder.layer_norm.weight")
    if norm is None or norm.dim() != 1:
        raise UserError(f"{path}: expected an encoder with a vector encoder.layer_norm.weight under {prefix}")
    aggregation = below("ssl_model.", rest)
    back_end = {name: tensor for name, tensor in rest.items() if not name.startswith("ssl_model.")}

    front_end = "WavLM" if any(name.endswith(".grep_a") for name in encoder) else "wav2vec2"
    known = {
        "ssl": flags.get("ssl") or _preset_of(path, front_end, encoder),
        "agg": next((name for name, agg in AGGREGATIONS.items() if agg.published_name in aggregation), "last"),
    }
    presets = FRONT_ENDS[front_end].presets
    if prefix == _S3PRL and known["ssl"] in presets:  # s3prl normalises where the encoder's own settings say so
        known |= {"ssl": FROM_FILE, "ssl_config": presets[known["ssl"]].fields | {"normalize": True}}
    config, prefix, weights = _back_end_of(path, front_end, encoder, back_end, known, flags)
    check_flags(path, config, {name: value for name, value in flags.items() if name != "ssl"})
    parts = {"front_end.model.": encoder, "aggregation.": aggregation, "back_end.": weights}
    parts[""] = {name: tensor for name, tensor in back_end.items() if not name.startswith(prefix)}  # fits nothing
    model = {place + name: tensor for place, part in parts.items() for name, tensor in part.items()}
    return {"config": config.to_dict(), "model": model, **facts_of_name(path)}


def _n_layers(encoder):
    return len({name.split(".")[2] for name in encoder if name.startswith("encoder.layers.")})


def _preset_of(path, front_end, encoder):
    """The preset whose depth and width an encoder's weights have."""
    found = (_n_layers(encoder), len(encoder["encoder.layer_norm.weight"]))
    sizes = {
        name: (preset.fields["encoder_layers"], preset.fields["encoder_embed_dim"])
        for name, preset in FRONT_ENDS[front_end].presets.items()
    }
    for name, size in sizes.items():
        if size == found:
            return name
    known = ", ".join(f"{name} ({layers} x {width})" for name, (layers, width) in sizes.items())
    raise UserError(
        f"{path}: expected a {front_end} encoder of known layers x channels: {known}; found {found[0]} x {found[1]}"
    )


def _back_end_of(path, front_end, encoder, state_dict, known, flags):
    """(ModelConfig, published prefix of the back-end, its weights by its own names): whose weights these are."""
    channels = len(encoder["encoder.layer_norm.weight"])
    n_hidden_states = 1 + _n_layers(encoder)
    fitting, closest = [], None
    for name, kind in BACK_ENDS.items():
        model_name = f"{front_end}_{name}"
        if flags.get("model_name", model_name) != model_name:
            continue
        prefix = kind.published_prefix
        weights = {n: t for n, t in below(prefix, state_dict).items() if not n.startswith(kind.unused_tensors)}
        own = known | ({"agg": None} if kind.takes_hidden_states else {})
        try:
            read_off = kind.read_off(weights)
            n_output_logits = read_off.pop("n_output_logits", None)
            options = {n: value for n, value in _options_of(flags).items() if n in kind.options()} | read_off
            config = ModelConfig(model_name, **own, n_output_logits=n_output_logits, back_end_options=options)
            with empty_weights():
                expected = build_back_end(config, channels, n_hidden_states).state_dict()
        except (
            ArithmeticError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ):  # not even the names or widths of this back-end
            continue
        closest = (config, prefix, weights)
        if {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in expected.items()}:
            fitting.append((config, prefix, weights))
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise AmbiguousModel(path, [config.model_name for config, *_ in fitting])
    if "model_name" in flags and flags["model_name"].split("_")[0] != front_end:
        raise UserError(f"--model_name {flags['model_name']}: {path} has a {front_end} encoder")
    if closest and "model_name" in flags:
        return closest  # loading names what does not fit
    raise UserError(
        f"{path}: its {len(state_dict)} weights behind the encoder fit no back-end of {', '.join(BACK_ENDS)}; first "
        f"{shown(next(iter(state_dict), 'none'))}"
    )
