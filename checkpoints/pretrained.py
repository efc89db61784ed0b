"""Pre-trained encoders in the formats of fairseq, Microsoft and Hugging Face, as the start of training."""

import argparse
import json
from pathlib import Path

import torch

from checkpoints.detectors import check_weights, detector_from, encoder_of_detector
from checkpoints.format import check_size, load_file, load_strictly, weights_of
from checkpoints.published import holds_detector
from common.console import UserError, shown
from front_ends import FROM_FILE, FRONT_ENDS, OtherFrontEnd
from model import Detector, ModelConfig, build_detector

# {file of a preset: (its size and source, the repository with the same weights on Hugging Face)}.
SOURCES = {
    "xlsr2_300m.pt": (
        " (3.8 GB, https://dl.fbaipublicfiles.com/fairseq/wav2vec/xlsr2_300m.pt)",
        "facebook/wav2vec2-xls-r-300m",
    ),
    "WavLM-Large.pt": (" (1.3 GB, linked in the wavlm folder of microsoft/unilm on GitHub)", "microsoft/wavlm-large"),
}


def new_detector(config: ModelConfig, ssl_path: Path | str | None = None, ssl_layers: int | None = None) -> Detector:
    """Build a Detector for training: pre-trained encoder, randomly initialised back-end.

    Dropout and other training-only settings of the encoder are those of its file. ssl_path: file or folder of the
    encoder; None: the published file name in the current folder; "none": random weights, as for encoders without
    pre-trained weights (tiny). ssl_layers: use only the first ssl_layers layers of the encoder; None: all.
    Raises UserError if the file is missing or does not fit.
    """
    path = pretrained_path(config, ssl_path)
    preset = FRONT_ENDS[config.front_end].presets.get(config.ssl)
    config = config.with_first_layers(ssl_layers) if ssl_layers else config
    if path is None:
        return build_detector(config)
    detector = build_detector(config, empty="front_end")
    state_dict = _set_training(detector, path)
    if ssl_layers or (preset and preset.first_layers):
        state_dict = detector.front_end.own_layers(state_dict, config.encoder_fields)
    load_strictly(detector.front_end.model, state_dict, path, f"--ssl {config.ssl}", assign=True)
    return detector


def detector_to_fine_tune(path: Path | str, content: dict, ssl_path: Path | str | None = None) -> Detector:
    """Build the Detector of a checkpoint for fine-tuning. content: the output of read_detector for `path`.

    ssl_path: pre-trained file of its encoder, which sets dropout and other training-only settings; None: they are off,
    because checkpoints of detectors do not store them. Raises UserError if a file does not fit or weights are not
    finite.
    """
    check_weights(path, content)
    detector = detector_from(path, content)
    if ssl_path not in (None, "none"):
        _set_training(detector, ssl_path)
    return detector


def _set_training(detector, path):
    """Set the encoder's training-only settings (dropout etc.) from its pre-trained file. Returns its weights."""
    fields, state_dict = read_pretrained(path, detector.config.front_end)
    detector.front_end.set_training({n: fields.get(n, value) for n, value in detector.front_end.in_training.items()})
    return state_dict


def resolve_encoder(flags: dict, ssl_path: Path | str | None = None) -> ModelConfig:
    """ModelConfig from model flags {name: value} and --ssl_path.

    Without the flag `ssl`, the pre-trained file determines the shape of the encoder. Raises UserError if the file is
    missing or of another kind.
    """
    config = ModelConfig(**flags)
    if ssl_path in (None, "none") or "ssl" in flags:
        return config
    fields, state_dict = read_pretrained(ssl_path, config.front_end)
    config = ModelConfig(**{**flags, "ssl": FROM_FILE, "ssl_config": fields})
    if config.ssl == FROM_FILE:
        try:
            check_size(FRONT_ENDS[config.front_end], fields, state_dict)
        except ValueError as error:
            raise UserError(f"{ssl_path}: expected a pre-trained {config.front_end} encoder, found {error}") from error
    return config


def pretrained_path(config: ModelConfig, ssl_path: Path | str | None) -> Path | str | None:
    """File of an encoder's pre-trained weights; None: start from random weights. See new_detector."""
    presets = FRONT_ENDS[config.front_end].presets
    published = presets[config.ssl].file if config.ssl in presets else None
    if ssl_path == "none" or (ssl_path is None and published is None):
        return None
    if ssl_path is None and not Path(published).exists():
        size, repository = SOURCES.get(published, ("", f"openai/{published}"))
        raise UserError(
            f"--ssl {config.ssl}: expected its pre-trained weights as {published} in this folder{size}; "
            f"--ssl {config.ssl} --ssl_path {repository} downloads them from Hugging Face, --ssl_path FILE reads "
            "another file, `--ssl_path none` starts from random weights; --recipe small needs no weights and no GPU"
        )
    return ssl_path or published


def read_pretrained(path: Path | str, front_end: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read a pre-trained encoder: (the front-end's fields, its state dict with the front-end's names).

    path: a fairseq checkpoint of wav2vec 2.0, XLS-R or HuBERT, Microsoft's WavLM, a Hugging Face folder (config.json
    with model.safetensors or pytorch_model.bin), or a detector, of which only the encoder is read. front_end: the
    expected one of front_ends.FRONT_ENDS. Pre-training heads and decoders are dropped.
    Raises UserError if the file is missing, damaged or of another kind.
    """
    kind = FRONT_ENDS[front_end]
    try:
        if Path(path).is_dir():
            settings = _read_json(_find_in(path, "config.json"))
            fields = kind.fields_of({"model_type": None} | settings)
            state_dict = _hugging_face_weights(path)
        else:
            content = load_file(path)
            if holds_detector(content):
                found, fields, state_dict = encoder_of_detector(path, content)
                if found != front_end:
                    raise OtherFrontEnd(f"the {found} encoder of a detector")
                return fields, state_dict
            if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
                raise UserError(f"{path}: expected a fairseq checkpoint with its weights under `model`")
            fields, state_dict = kind.fields_of(_settings_of(content)), weights_of(path, content["model"])
        return fields, kind.weights_of(state_dict)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: expected a pre-trained {front_end} encoder, found {error}") from error


def _find_in(folder, *names):
    for name in names:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise UserError(f"{folder}: expected a Hugging Face folder with {' or '.join(names)}, found none")


def _read_json(path):
    """Read the object in a JSON file of at most 1 MB. Raises UserError for anything else."""

    def named_once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("duplicate name")
        return dict(pairs)

    try:
        if path.stat().st_size > 1 << 20:
            raise UserError(f"{path}: expected at most 1 MB of settings, found {path.stat().st_size:,} bytes")
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=named_once)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, found another kind of file, or a damaged one: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object of settings, found {shown(value)}")
    return value


# Weights in a Hugging Face folder: one file, or the index of several.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def _hugging_face_weights(folder):
    """State dict of a Hugging Face folder, from one file or from several listed in an index."""
    path = _find_in(folder, *WEIGHTS)
    if path.suffix != ".json":
        return weights_of(path, load_file(path))
    parts = [weights_of(Path(folder) / part, load_file(Path(folder) / part)) for part in parts_of(path)]
    return {name: tensor for part in parts for name, tensor in part.items()}


def parts_of(index: Path) -> list[str]:
    """Names of the weight files in an index of a Hugging Face folder. Raises UserError if a name has a folder."""
    places = _read_json(index).get("weight_map")
    places = set(places.values() if isinstance(places, dict) else [None])
    if not all(isinstance(place, str) and Path(place).name == place for place in places):
        raise UserError(f"{index}: expected names of files in the same folder under `weight_map`")
    return sorted(places)


def _settings_of(content):
    """Model settings {name: value} of a fairseq checkpoint: current (cfg.model), older (args) or WavLM's (cfg)."""
    for name in ("cfg", "args"):
        settings = _as_dict(content.get(name))
        if settings:
            return _as_dict(settings.get("model")) or settings
    raise ValueError("no settings under `cfg` or `args`")


def _as_dict(value):
    value = vars(value) if isinstance(value, argparse.Namespace) else value
    return value if isinstance(value, dict) else None
