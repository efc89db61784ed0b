"""Published detectors: configuration inferred from the names and shapes of their state dicts."""

from pathlib import Path
from typing import NamedTuple

import torch

from back_ends import BACK_ENDS, build_back_end
from checkpoints.folders import facts_of_name
from checkpoints.format import below, check_size, is_ours, weights_of
from common.console import UserError, shown
from front_ends import AGGREGATIONS, FROM_FILE, FRONT_ENDS, OtherFrontEnd
from model import OPTION_FLAGS, ModelConfig, option_value


class AmbiguousModel(UserError):
    """A published checkpoint that fits several models, listed in `names`."""

    def __init__(self, path: Path | str, names: list[str]) -> None:
        super().__init__(
            f"{path}: fits {' and '.join(names)}, which have equal weight names and shapes; pass --model_name"
        )
        self.names = names


def check_flags(path: Path | str, config: ModelConfig, flags: dict) -> None:
    """Raise UserError if a model flag disagrees with the configuration of a checkpoint."""
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
    """Back-end options among the model flags, {name: value}."""
    return {name: flags[name] for name in OPTION_FLAGS if name in flags} | flags.get("back_end_options", {})


_WRAPPINGS = ("model_state_dict", "state_dict", "model")


def state_dict_of(path: Path | str, content: object) -> dict[str, torch.Tensor]:
    """State dict in the content of a file, without the wrappings of other programs."""
    for wrapping in _WRAPPINGS:
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
            break
    content = weights_of(path, content)
    if any(name.startswith("feature_extractor.conv_layers.") for name in content):
        raise UserError(f"{path}: expected a detector, found a pre-trained encoder; use it with train.py --ssl_path")
    return content


class Layout(NamedTuple):
    """Published layout of a state dict.

    prefix: prefix of the encoder's weights. normalize: {front-end: whether the waveform is normalised}, if that differs
    from the encoder's preset.
    """

    prefix: str
    normalize: dict = {}


LAYOUTS = (
    Layout("ssl_model.model.model."),  # Nes2Net's detectors of singing: WavLM in a wrapper
    # Nes2Net, AASIST and most rivals. Their WavLM (Nes2Net for ASVspoof 5) is Microsoft's code, applied to the raw
    # waveform.
    Layout("ssl_model.model.", {"WavLM": False}),
    Layout("ssl_model.", {"WavLM": False}),  # AttM_LSTM, also with Microsoft's code
    Layout("m_ssl.model."),  # the LGF family; AntiDeepfake (Linear)
    # wedefense: s3prl normalises the waveform as the encoder's settings say.
    Layout("frontend.upstream.upstream.model.", {"wav2vec2": True, "WavLM": True}),
    Layout("wav2vec2_with_prompt.model."),  # PT_AASIST: a Hugging Face model
    Layout("pretrain_model."),  # MoE: a Hugging Face model with its names
    Layout("feature_extractor.model.model."),  # MamBo: a torchaudio model with its names
)


def holds_detector(content: object) -> bool:
    """Whether the content of a file is a detector, of this project or in a published layout, not an encoder alone."""
    if is_ours(content):
        return True
    while isinstance(content, dict):
        if any(isinstance(name, str) and layout.prefix in name for name in content for layout in LAYOUTS):
            return True
        content = next((content[name] for name in _WRAPPINGS if name in content), None)
    return False


def read_published(path: Path | str, state_dict: dict[str, torch.Tensor], flags: dict) -> dict:
    """Output of read_detector for a published state dict, whose architecture is inferred from names and shapes."""
    for layout in LAYOUTS:
        encoder = below(layout.prefix, state_dict)
        if encoder:
            break
    else:
        found = ", ".join(map(shown, list(state_dict)[:3])) + (" ..." if len(state_dict) > 3 else "")
        prefixes = " or ".join(it.prefix for it in LAYOUTS)
        raise UserError(f"{path}: expected weights under {prefixes}, found {found}")
    other_weights = {name: tensor for name, tensor in state_dict.items() if not name.startswith(layout.prefix)}
    front_end, encoder, fields = _encoder_of(path, layout.prefix, encoder, flags.get("ssl"))
    kind = FRONT_ENDS[front_end]
    if front_end in layout.normalize:
        fields = fields | {"normalize": layout.normalize[front_end]}
    aggregation = below("ssl_model.", other_weights)
    back_end = {name: tensor for name, tensor in other_weights.items() if not name.startswith("ssl_model.")}
    settings = {
        "ssl": FROM_FILE,
        "ssl_config": fields,
        "agg": next((name for name, agg in AGGREGATIONS.items() if agg.published_name in aggregation), "last"),
    }
    config, prefix, weights = _back_end_of(path, front_end, kind.sizes(fields), back_end, settings, flags)
    check_flags(path, config, {name: value for name, value in flags.items() if name != "ssl"})
    parts = {"front_end.model.": encoder, "aggregation.": aggregation, "back_end.": weights}
    parts[""] = {
        name: tensor for name, tensor in back_end.items() if not name.startswith(prefix)
    }  # loading names them as left over
    model = {place + name: tensor for place, part in parts.items() for name, tensor in part.items()}
    corpora = BACK_ENDS[config.back_end].published_corpora
    facts = facts_of_name(path) | (
        {"trained_on": f"{corpora}; none of these is unseen for this detector"} if corpora else {}
    )
    return {"config": config.to_dict(), "model": model, **facts}


def _encoder_of(path, prefix, state_dict, ssl):
    """Identify an encoder: (front-end, its weights with this project's names, its fields). ssl: --ssl, if given."""
    for name, kind in FRONT_ENDS.items():
        try:
            weights = kind.weights_of(state_dict)
            fields = kind.fields_of_weights(weights)
            check_size(kind, fields, weights)
        except OtherFrontEnd:
            continue
        except ValueError as error:
            raise UserError(f"{path}: expected a {name} encoder under {prefix}, found {error}") from error
        if ssl not in (None, FROM_FILE):
            if ssl not in kind.presets:
                raise UserError(f"--ssl {ssl}: {path} has a {name} encoder")
            fields = kind.presets[ssl].fields
        return name, weights, fields
    raise UserError(f"{path}: expected an encoder for {' or '.join(FRONT_ENDS)} under {prefix}, found another kind")


def _back_end_of(path, front_end, sizes, state_dict, settings, flags):
    """Identify a back-end: (ModelConfig, its published prefix, its weights without the prefix).

    sizes: channels and number of hidden states of the front-end. settings: model settings already inferred.
    """
    fitting, incomplete, closest = [], [], None
    for name, kind in BACK_ENDS.items():
        model_name = f"{front_end}_{name}"
        if flags.get("model_name", model_name) != model_name:
            continue
        prefix = kind.published_prefix
        weights = {n: t for n, t in below(prefix, state_dict).items() if not n.startswith(kind.unused_tensors)}
        own = settings | ({"agg": None} if kind.takes_hidden_states else {})
        try:
            read_off = kind.read_off(weights)
            n_output_logits = read_off.pop("n_output_logits", None)
            options = {n: value for n, value in _options_of(flags).items() if n in kind.options()} | read_off
            config = ModelConfig(model_name, **own, n_output_logits=n_output_logits, back_end_options=options)
            with torch.device("meta"):
                expected = build_back_end(config, *sizes).state_dict()
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):  # another back-end's names or sizes
            continue
        closest = (config, prefix, weights)
        shapes, expected = ({(n, t.shape) for n, t in tensors.items()} for tensors in (weights, expected))
        if shapes == expected:
            fitting.append(closest)
        elif shapes and shapes < expected:
            incomplete.append(closest)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise AmbiguousModel(path, [config.model_name for config, *_ in fitting])
    if "model_name" in flags and flags["model_name"].split("_")[0] != front_end:
        raise UserError(f"--model_name {flags['model_name']}: {path} has a {front_end} encoder")
    if len(incomplete) == 1:
        return incomplete[0]  # loading names what is missing
    if closest and "model_name" in flags:
        return closest  # loading names what does not fit
    raise UserError(
        f"{path}: its {len(state_dict)} weights outside the encoder fit no back-end of {', '.join(BACK_ENDS)}; first "
        f"{shown(next(iter(state_dict), 'none'))}"
    )
