"""Detectors on disk: save, load, average, resume. A checkpoint is tensors and plain data, and never runs code.

A checkpoint of this project is a dictionary: `format`, `config` (the ModelConfig as plain data), `model` (the state
dict), and what is known of it: `epoch`, `valid` (figures on the dev set), `trained_on`, `averaged` (the files it is
the mean of).
"""

import argparse
import contextlib
import json
import math
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import torch

from back_ends import BACK_ENDS, build_back_end, published_prefix, shapes_of, takes_hidden_states, unused_tensors
from checkpoints import safe_load
from common.atomic import atomic_open
from common.console import Number, UserError, check, shown
from corpora import protocols
from corpora.protocols import BONAFIDE, SPOOF
from front_ends.encoders import (
    ENCODER_FIELDS,
    FROM_FILE,
    PRESETS,
    OtherFrontEnd,
    check_encoder,
    empty_weights,
    fairseq_names,
    fields_of_fairseq,
    fields_of_hugging_face,
    same_shape,
)
from model import ModelConfig, build_detector
from reports import metrics

FORMAT = "speech anti-spoofing detector, 1"
_CHECKPOINT_NAME = re.compile(
    r"epoch_(\d{1,9})\.pth|model_(\d{1,9})_EER_.*\.pt", re.ASCII
)  # as the published programs name them
# Affine calibration, and the numbers of dev trials that it was fitted on.
CALIBRATION = ("calibration_slope", "calibration_offset", "calibration_n_bonafide", "calibration_n_spoof")
RESUME_NAME = "newest_checkpoint_for_resume.pth"
PREVIOUS_NAME = "previous_checkpoint_for_resume.pth"


def save_checkpoint(path, config, state_dict, **facts):
    """Write a checkpoint, whole or not at all. facts: plain data, see the module's text."""
    _save(path, {"format": FORMAT, "config": config.to_dict(), "model": state_dict, **facts})


def _save(path, content, previous=None):
    try:
        with atomic_open(path, "wb", previous) as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:
                # What its writer makes of a write that failed; the reason is the error that came first.
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        needed = sum(tensor.untyped_storage().nbytes() for tensor in safe_load.tensors(content))
        free = shutil.disk_usage(Path(path).parent).free
        raise UserError(f"{error}; needs {needed / 1e6:,.1f} MB, free are {free / 1e6:,.1f} MB") from error


def read_checkpoint(path):
    """Read a checkpoint as the dictionary that save_checkpoint wrote, tensors memory-mapped.

    Raises UserError where the file is missing, damaged, no checkpoint of this project, or would run code.
    """
    content = _load(path)
    if not _is_ours(content):
        raise UserError(f"{path}: expected a checkpoint of this project, found another kind of file")
    _check_content(path, content)
    return content


def _is_ours(content):
    return isinstance(content, dict) and isinstance(content.get("format"), str) and content["format"] == FORMAT


# What a dev set's figures may be; others are numbers of any kind, a loss may be NaN.
_FIGURES = {
    "eer": Number(float, 0, 1),
    "threshold": Number(),
    "calibration_slope": Number(),
    "calibration_offset": Number(),
}
_FIGURES |= {"calibration_n_bonafide": Number(int, 1), "calibration_n_spoof": Number(int, 1)}


def _check_content(path, content):
    """Raises UserError where a checkpoint does not hold what save_checkpoint writes."""
    for name, kind in {"config": dict, "model": dict, "valid": dict, "averaged": list, "trained_on": str}.items():
        if not isinstance(content.get(name, None if name in ("config", "model") else kind()), kind):
            found = shown(content[name]) if name in content else "none"
            raise UserError(f"{path}: expected a {kind.__name__} as its `{name}`, found {found}")
    content["model"] = _weights(path, content["model"])
    config = content["config"]
    if unknown := [name for name in config if name not in ModelConfig.__dataclass_fields__]:
        raise UserError(f"{path}: expected a configuration that is known here, found {shown(unknown[0])} in it")
    if "model_name" not in config:
        raise UserError(f"{path}: expected a model_name in its configuration, found none")
    try:
        shape = ModelConfig(**config).ssl_config
        if shape is not None:
            check_encoder(shape, content["model"])
        if content.get("epoch") is not None:
            check("epoch", content["epoch"], Number(int, 0, 10**9))
        for name, value in content.get("valid", {}).items():
            if name in _FIGURES:
                check(f"valid {name}", value, _FIGURES[name])
            elif not isinstance(value, float | int | str):
                raise ValueError(f"valid {shown(name)} {shown(value)}, expected a number")
        for value in content.get("averaged", []):
            if not isinstance(value, str):
                raise ValueError(f"averaged {shown(value)}, expected names")
    except ValueError as error:
        raise UserError(f"{path}: holds no detector of this project: {error}") from error


def _load(path):
    """What a file of tensors and plain data holds, tensors memory-mapped where its format allows it."""
    return safe_load.load(path, _HARMLESS)


# What weights_only may build besides tensors and plain containers: fairseq keeps the arguments of its training in a
# Namespace, and HuBERT's files the dictionary of their targets.
_HARMLESS = [argparse.Namespace, (safe_load.Inert, "fairseq.data.dictionary.Dictionary")]


class AmbiguousModel(UserError):
    """A published checkpoint that fits several models, `names`."""

    def __init__(self, path, names):
        super().__init__(f"{path}: fits {' and '.join(names)}, which no weight tells apart; --model_name says which")
        self.names = names


def load_detector(path, **flags):
    """Load a Detector, in evaluation mode, on the CPU; its weights are mapped from the file, not copied.

    path: a checkpoint of this project or a published one. flags: model flags that the user gave; each must agree
    with the checkpoint, and they say what a published one does not tell.
    Raises UserError where the file is missing, damaged, of another kind or would run code, for a flag that disagrees,
    and for a weight that is missing, left over or of another shape.
    """
    content = read_detector(path, **flags)
    return detector_from(path, content["config"], content["model"])


def load_average(paths, **flags):
    """The average of checkpoints as a Detector in evaluation mode; flags and errors as load_detector."""
    content = _average(paths, **flags)
    return detector_from("the average", content["config"], content["model"])


def detector_from(path, config, state_dict):
    """Build a Detector from plain configuration and weights that were read from `path`; see load_detector."""
    config = ModelConfig(**config)
    try:
        detector = build_detector(config, empty="all")
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: its configuration describes no network: {shown(str(error))}") from error
    load_strictly(detector, state_dict, path, config.model_name, assign=True)
    return detector.eval()


def new_detector(config, ssl_path=None):
    """Build a Detector to be trained: pre-trained encoder, random rest. ssl_path: its file or folder.

    None is the published name in the current folder; "none" keeps random weights, as an encoder does that has no
    pre-trained ones (tiny). Raises UserError where the file is missing or does not fit."""
    path = _pretrained_path(config, ssl_path)
    if path is None:
        return build_detector(config)
    detector = build_detector(config, empty="front_end")
    _, state_dict = read_pretrained(path, config.front_end)
    if config.ssl == "wavlm_large_12":  # the one encoder that is a part of its file
        beyond = re.compile(r"encoder\.layers\.(1[2-9]|2\d)\.")
        state_dict = {name: tensor for name, tensor in state_dict.items() if not beyond.match(name)}
    load_strictly(detector.front_end.model, state_dict, path, f"--ssl {config.ssl}", assign=True)
    return detector


def read_detector(path, **flags):
    """Read a checkpoint of this project or a published one: {"config": plain data, "model": state dict by our names,
    and what else is known}. flags and errors as load_detector.
    """
    content = _load(path)
    if _is_ours(content):
        _check_content(path, content)
        _check_flags(path, ModelConfig(**content["config"]), flags)
        return content
    return _read_published(path, _state_dict_of(path, content), flags)


def _check_flags(path, config, flags):
    for name, value in flags.items():
        trained = getattr(config, name)
        if (tuple(value) if isinstance(value, list) else value) != trained:
            raise UserError(f"--{name}: {path} was trained with {trained}, found {value}")


def _state_dict_of(path, content):
    """The state dict of a file of tensors, without what other programs wrap around it."""
    for wrapping in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
            break
    content = _weights(path, content)
    if any(name.startswith("feature_extractor.") for name in content):
        raise UserError(f"{path}: expected a detector, found a pre-trained encoder; train.py --ssl_path takes it")
    return content


_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # torch.compile's and others' of torch


def _weights(path, state_dict):
    """A state dict under the names that its module had before torch and others wrapped it, or parts of it.

    Raises UserError where it is no state dict.
    """
    if not isinstance(state_dict, dict) or not state_dict:
        raise UserError(f"{path}: expected the weights of a network, found none")
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise UserError(f"{path}: expected named tensors as its weights, found a {kind} as {shown(name)}")
    names = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in state_dict}
    for wrapping in ("module.", "model.", "module."):  # DataParallel's, Lightning's, the one in the other
        if all(name.startswith(wrapping) for name in names.values()):
            names = {name: short.removeprefix(wrapping) for name, short in names.items()}
    if len(set(names.values())) < len(names):
        raise UserError(f"{path}: expected every weight once, found some both with and without {', '.join(_WRAPPERS)}")
    return {names[name]: tensor for name, tensor in state_dict.items()}


# Where a published state dict keeps its encoder: WavLM came through a wrapper, the LGF family, wedefense (through
# s3prl) and MoE (a Hugging Face model) have names of their own.
_S3PRL, _HUGGING_FACE = "frontend.upstream.upstream.model.", "pretrain_model."
_FRONT_END_PREFIXES = ("ssl_model.model.model.", "ssl_model.model.", "m_ssl.model.", _S3PRL, _HUGGING_FACE)
# A weight by which the aggregation is known.
_AGGREGATIONS = {"fc_att_merge.0.weight": "SEA", "weight_hidd": "WeightedSum", "linear_proj.weight": "AttM"}
# Of pre-training; no detector uses them.
_PRETRAINING_HEADS = ("quantizer.", "project_q.", "target_glu.", "final_proj.", "label_embs_concat")


def _read_published(path, state_dict, flags):
    """What read_detector returns, of a published state dict: its architecture is read off names and shapes."""
    for prefix in _FRONT_END_PREFIXES:
        encoder = _below(prefix, state_dict)
        if encoder:
            break
    else:
        raise UserError(f"{path}: expected weights under {' or '.join(_FRONT_END_PREFIXES)}, found none")
    rest = {name: tensor for name, tensor in state_dict.items() if not name.startswith(prefix)}
    if prefix == _HUGGING_FACE:
        encoder = fairseq_names(encoder, PRESETS["xlsr_300m"].fields)
    encoder = {name: tensor for name, tensor in encoder.items() if not name.startswith(_PRETRAINING_HEADS)}
    norm = encoder.get("encoder.layer_norm.weight")
    if norm is None or norm.dim() != 1:
        raise UserError(f"{path}: expected an encoder with a vector encoder.layer_norm.weight under {prefix}")
    aggregation = _below("ssl_model.", rest)
    back_end = {name: tensor for name, tensor in rest.items() if not name.startswith("ssl_model.")}

    front_end = "WavLM" if any(name.endswith(".grep_a") for name in encoder) else "wav2vec2"
    known = {
        "ssl": flags.get("ssl") or _preset_of(path, front_end, encoder),
        "agg": next((agg for name, agg in _AGGREGATIONS.items() if name in aggregation), "last"),
    }
    if prefix == _S3PRL and known["ssl"] in PRESETS:  # s3prl normalises where the encoder's own settings say so
        known |= {"ssl": FROM_FILE, "ssl_config": PRESETS[known["ssl"]].fields | {"normalize": True}}
    config, prefix, weights = _back_end_of(path, front_end, encoder, back_end, known, flags)
    _check_flags(path, config, {name: value for name, value in flags.items() if name != "ssl"})
    parts = {"front_end.model.": encoder, "aggregation.": aggregation, "back_end.": weights}
    parts[""] = {name: tensor for name, tensor in back_end.items() if not name.startswith(prefix)}  # fits nothing
    model = {place + name: tensor for place, part in parts.items() for name, tensor in part.items()}
    return {"config": config.to_dict(), "model": model, **_facts_of_name(path)}


def _below(prefix, state_dict):
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}


def _facts_of_name(path):
    match = _CHECKPOINT_NAME.fullmatch(Path(path).name)
    return {"epoch": int(match[1] or match[2])} if match else {}


def _n_layers(encoder):
    return len({name.split(".")[2] for name in encoder if name.startswith("encoder.layers.")})


def _preset_of(path, front_end, encoder):
    """The preset whose depth and width an encoder's weights have."""
    found = (_n_layers(encoder), len(encoder["encoder.layer_norm.weight"]))
    sizes = {
        name: (preset.fields["encoder_layers"], preset.fields["encoder_embed_dim"])
        for name, preset in PRESETS.items()
        if front_end in preset.front_ends
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
    for name in BACK_ENDS:
        model_name = f"{front_end}_{name}"
        if flags.get("model_name", model_name) != model_name:
            continue
        prefix = published_prefix(name)
        unused = unused_tensors(name)
        weights = {n: tensor for n, tensor in _below(prefix, state_dict).items() if not n.startswith(unused)}
        own = known | ({"agg": None} if takes_hidden_states(name) else {})
        try:
            read_off = shapes_of(name, weights)
            config = ModelConfig(model_name, **own, **read_off, dilation=flags.get("dilation"))
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


_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # that weights are stored in


def load_strictly(module, state_dict, path, name, assign=False):
    """Load every weight of a state dict, read from `path`, into a module that the user knows as `name`.

    assign: let the module have the tensors themselves rather than copies.
    Raises UserError that names every weight that is missing, left over or of another shape.
    """
    expected = module.state_dict()
    problems = [f"missing {key}" for key in expected if key not in state_dict]
    problems += [f"left over {shown(key)}" for key in state_dict if key not in expected]
    for key in expected:
        found, wanted = state_dict.get(key, expected[key]), expected[key]
        if found.shape != wanted.shape:
            problems.append(f"{key} has shape {tuple(found.shape)}, expected {tuple(wanted.shape)}")
        elif found.dtype not in (_FLOATS if wanted.dtype in _FLOATS else (wanted.dtype,)):
            problems.append(f"{key} holds {found.dtype}, expected {wanted.dtype}")
    if problems:
        raise UserError(
            f"{path}: does not fit {name}: {len(problems)} of {len(expected)} weights, first {problems[0]}",
            details=problems,
        )
    if assign:
        state_dict = {key: tensor.to(expected[key].dtype) for key, tensor in state_dict.items()}
    torch.nn.Module.load_state_dict(module, state_dict, assign=assign)  # fairseq's own knows no assigning


def resolve_encoder(flags, ssl_path=None):
    """The ModelConfig of model flags {name: value} and --ssl_path: where the flags leave the encoder open, the file
    of pre-trained weights says its shape. Raises UserError for a file that is missing or of another kind.
    """
    config = ModelConfig(**flags)
    if ssl_path in (None, "none") or "ssl" in flags:
        return config
    fields, state_dict = read_pretrained(ssl_path, config.front_end)
    for name, preset in PRESETS.items():
        if config.front_end in preset.front_ends and same_shape(fields, preset.fields):
            return ModelConfig(**{**flags, "ssl": name})
    try:
        check_encoder(fields, state_dict)
    except ValueError as error:
        raise UserError(f"{ssl_path}: expected a pre-trained {config.front_end} encoder, found {error}") from error
    return ModelConfig(**{**flags, "ssl": FROM_FILE, "ssl_config": fields})


def _pretrained_path(config, ssl_path):
    """The file of an encoder's pre-trained weights; None is to start from random ones."""
    published = PRESETS[config.ssl].file if config.ssl in PRESETS else None
    if ssl_path == "none" or (ssl_path is None and published is None):
        return None
    if ssl_path is None and not Path(published).is_file():
        raise UserError(
            f"--ssl {config.ssl}: expected its pre-trained weights as {published} in this folder; "
            "name the file with --ssl_path, or `--ssl_path none` starts from random weights"
        )
    return ssl_path or published


def read_pretrained(path, front_end):
    """Read a pre-trained encoder: (its shape, see front_ends.ENCODER_FIELDS; its state dict by fairseq's names).

    path: a fairseq checkpoint of wav2vec 2.0, XLS-R or HuBERT, Microsoft's WavLM, or a Hugging Face folder of one
    (config.json with model.safetensors or pytorch_model.bin). front_end: wav2vec2 or WavLM, what is expected.
    Pre-training heads are dropped. Raises UserError where it is missing, damaged or of another kind.
    """
    try:
        if Path(path).is_dir():
            fields = fields_of_hugging_face(_read_json(_find_in(path, "config.json")), front_end)
            state_dict = fairseq_names(_hugging_face_weights(path), fields)
        else:
            content = _load(path)
            if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
                raise UserError(f"{path}: expected a fairseq checkpoint with its weights under `model`")
            fields, state_dict = fields_of_fairseq(_settings_of(content), front_end), _weights(path, content["model"])
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: expected a pre-trained {front_end} encoder, found {error}") from error
    return fields, {name: t for name, t in state_dict.items() if not name.startswith(_PRETRAINING_HEADS)}


def _find_in(folder, *names):
    for name in names:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise UserError(f"{folder}: expected a Hugging Face folder with {' or '.join(names)}, found none")


def _read_json(path):
    """The object in a JSON file of at most a MB. Raises UserError for anything else."""

    def named_once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        if path.stat().st_size > 1 << 20:
            raise UserError(f"{path}: expected at most a MB of settings, found {path.stat().st_size:,} bytes")
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


def _hugging_face_weights(folder):
    """The state dict of a Hugging Face folder, of one file or of several that an index lists."""
    names = ("model.safetensors", "pytorch_model.bin")
    path = _find_in(folder, *names, *(f"{name}.index.json" for name in names))
    if path.suffix != ".json":
        return _weights(path, _load(path))
    places = _read_json(path).get("weight_map")
    places = set(places.values() if isinstance(places, dict) else [None])
    if not all(isinstance(place, str) and Path(place).name == place for place in places):
        raise UserError(f"{path}: expected the names of files beside it under `weight_map`")
    parts = [_weights(Path(folder) / place, _load(Path(folder) / place)) for place in sorted(places)]
    return {name: tensor for part in parts for name, tensor in part.items()}


def _settings_of(content):
    """{name: value} of the model in a fairseq checkpoint: of today (cfg.model), older (args) or WavLM's (cfg)."""
    for name in ("cfg", "args"):
        settings = _as_dict(content.get(name))
        if settings:
            return _as_dict(settings.get("model")) or settings
    raise ValueError("no settings under `cfg` or `args`")


def _as_dict(value):
    value = vars(value) if isinstance(value, argparse.Namespace) else value
    return value if isinstance(value, dict) else None


def average_checkpoints(paths):
    """The arithmetic mean of checkpoints: the state dict of floating-point means, integers of the latest epoch.

    Accumulated in float64, one file at a time, in an order of its own: the order of `paths` does not matter.
    Raises UserError for no file, a file named twice (links included), checkpoints of different networks, and weights
    that are NaN or infinite.
    """
    return _average(paths)["model"]


def _average(paths, **flags):
    """The averaged checkpoint as save_checkpoint would write it, without dev figures."""
    paths = [Path(path) for path in paths]
    if not paths:
        raise UserError("averaging needs checkpoints, each named once; found none")
    files = {}
    for path in paths:
        with contextlib.suppress(OSError):  # reading it says why
            file = os.stat(path)
            before = files.setdefault((file.st_dev, file.st_ino), [])
            if before:
                raise UserError(
                    f"averaging needs checkpoints, each named once; found {before[0]} twice, also as {path}"
                )
            before.append(path)
    paths = sorted(paths, key=lambda path: (read_detector(path, **flags).get("epoch") or 0, str(path)))
    total = config = None
    for path in paths:
        content = read_detector(path, **flags)
        check_weights(path, content)
        state = content["model"]
        if total is None:
            config = content["config"]
            total = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
            continue
        if content["config"] != config or state.keys() != total.keys():
            raise UserError(f"{path}: holds another network than {paths[0]}; only the same network can be averaged")
        for key, value in state.items():
            if value.is_floating_point():
                total[key] += value
            else:
                total[key] = value
    for key, value in state.items():
        total[key] = (total[key] / len(paths)).to(value.dtype) if value.is_floating_point() else value.clone()
    return {"config": config, "model": total, "epoch": content.get("epoch"), "averaged": [path.name for path in paths]}


def check_weights(path, content):
    """Raises UserError where the weights of read_detector's content do not fit its network or are not finite."""
    detector_from(path, content["config"], content["model"])
    for name, tensor in content["model"].items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: expected finite weights, found NaN or infinite values in {name}")


def average_to(out, paths, **flags):
    """Average checkpoints into the file `out`, a checkpoint like any other."""
    content = _average(paths, **flags)
    config = ModelConfig(**content.pop("config"))
    save_checkpoint(out, config, content.pop("model"), **content)


def dev_figures(bonafide, spoof):
    """What a checkpoint keeps in `valid` of its scores on a dev set: {eer, threshold, and what CALIBRATION names}.

    bonafide, spoof: scores (trials,). The calibration's slope times a score plus its offset is the log-likelihood
    ratio. Raises UserError for an empty class or a score that is not finite.
    """
    eer, threshold = metrics.compute_eer(bonafide, spoof)
    (slope,), offset = metrics.train_calibration(bonafide, spoof)
    calibration = zip(CALIBRATION, (float(slope), float(offset), len(bonafide), len(spoof)))
    return {"eer": eer, "threshold": threshold, **dict(calibration)}


def calibrate(source, out, scores, key, **flags):
    """Write a checkpoint with the dev_figures of a score file and its key. flags and errors as load_detector."""
    content = read_detector(source, **flags)
    check_weights(source, content)
    found = protocols.read_scores(scores)
    trials = [trial for trial in protocols.read_protocol(key) if trial.label is not None]
    missing = [trial.utt_id for trial in trials if trial.utt_id not in found]
    if missing:
        raise UserError(f"{scores}: {len(missing)} of {len(trials)} trials of {key} have no score, first {missing[0]}")
    by_label = {label: [found[t.utt_id] for t in trials if t.label == label] for label in (BONAFIDE, SPOOF)}
    figures = dev_figures(np.array(by_label[BONAFIDE]), np.array(by_label[SPOOF]))
    facts = {name: value for name, value in content.items() if name not in ("format", "config", "model")}
    facts["valid"] = {**facts.get("valid", {}), **figures, "key": str(key)}
    save_checkpoint(out, ModelConfig(**content["config"]), content["model"], **facts)
    return figures


def checkpoints_folder(folder):
    """The folder that holds the checkpoints of a run: `folder`/checkpoints, or `folder` itself."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of a run, found none")
    return folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder


def epoch_checkpoints(folder):
    """{epoch: path} of the checkpoints that a run kept, by their names: epoch_N.pth or model_N_EER_X.pt."""
    found = {}
    for path in checkpoints_folder(folder).iterdir():
        if match := _CHECKPOINT_NAME.fullmatch(path.name):
            found[int(match[1] or match[2])] = path
    return dict(sorted(found.items()))


def checkpoints_of_epochs(folder, epochs):
    """The checkpoints of the named epochs of a run. Raises UserError naming the epochs that were not kept."""
    kept = epoch_checkpoints(folder)
    absent = [epoch for epoch in epochs if epoch not in kept]
    if absent:
        raise UserError(
            f"{checkpoints_folder(folder)}: no checkpoint of epoch {', '.join(map(str, absent))}; "
            f"kept are {', '.join(map(str, kept)) or 'none'}"
        )
    return [kept[epoch] for epoch in epochs]


def best_checkpoints(folder, n, figure=None):
    """The n checkpoints of a run with the lowest figure on the dev set; the earlier of two equal ones.

    figure: eer, loss or loss_augmented; None is what the run itself selected by.
    Raises UserError where the run kept fewer than n, or knows no such figure.
    """
    ranked = []
    for epoch, path in epoch_checkpoints(folder).items():
        valid = read_checkpoint(path).get("valid", {})
        name = figure or valid.get("selected_by")
        if not isinstance(valid.get(name), int | float):
            raise UserError(
                f"{path}: expected a dev figure {name or ''} to choose by, found {', '.join(valid) or 'none'}"
            )
        ranked.append((math.inf if math.isnan(valid[name]) else valid[name], epoch, path))
    if len(ranked) < n:
        raise UserError(f"{checkpoints_folder(folder)}: expected {n} checkpoints to average, found {len(ranked)}")
    return [path for _, _, path in sorted(ranked)[:n]]


def save_resume(path, detector, optimizer, scheduler, states=None, **facts):
    """Write all that a killed run needs to go on as if it had not been; the file before it is kept as PREVIOUS_NAME.

    states: what random_states() gives on each process of the run; None: the run is this process alone.
    """
    content = {
        "format": FORMAT,
        "config": detector.config.to_dict(),
        "model": detector.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "random": states or [random_states()],
        **facts,
    }
    _save(path, content, previous=PREVIOUS_NAME)


def load_resume(path, detector, optimizer, scheduler, process=0):
    """Put a run back where save_resume left it. Returns the file's content. Raises UserError as load_detector.

    process: whose random states; a process that the run did not have keeps its own.
    """
    content = read_checkpoint(path)
    if "optimizer" not in content:
        raise UserError(f"{path}: expected a file to resume from, found a finished checkpoint without its optimiser")
    if content["config"] != detector.config.to_dict():
        raise UserError(f"{path}: was trained with {content['config']}, found flags for {detector.config.to_dict()}")
    load_strictly(detector, content["model"], path, detector.config.model_name)
    try:
        optimizer.load_state_dict(content["optimizer"])
        for parameter, moments in optimizer.state.items():
            if any(value.shape not in ((), parameter.shape) for value in moments.values()):
                raise ValueError("moments of another shape than the weights")
        scheduler.load_state_dict(content["scheduler"])
        for states in content["random"][process : process + 1]:
            random.setstate(tuple(tuple(part) if isinstance(part, list) else part for part in states["python"]))
            name, keys, *rest = states["numpy"]
            np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
            torch.set_rng_state(states["torch"].clone())
            if torch.cuda.is_available() and states["cuda"] is not None:
                torch.cuda.set_rng_state(states["cuda"].clone())
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected a file to resume from, found a damaged one: {error}") from error
    return content


def random_states():
    """The states of Python's, numpy's and torch's random generators, as plain data and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def show(path, **flags):
    """What a checkpoint is, {name: value}. flags and errors as load_detector."""
    content = None if Path(path).is_dir() else _load(path)
    lines = {"file": f"{path}, {sum(file.stat().st_size for file in _files_of(path)):,} bytes"}
    inside = content.get("model") if isinstance(content, dict) and not _is_ours(content) else None
    if content is None or (isinstance(inside, dict) and any(str(n).startswith("feature_extractor.") for n in inside)):
        return lines | _show_encoder(path)
    try:
        detector = read_detector(path, **flags)
        names = [detector["config"]["model_name"]]
    except AmbiguousModel as error:
        names = error.names
        detector = read_detector(path, **{**flags, "model_name": names[0]})
    ours = _is_ours(content)
    lines["kind"] = "detector of this project" if ours else "detector in a published layout"
    for name, value in {**detector["config"], "model_name": " or ".join(names)}.items():
        if value is not None:
            lines[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    if not ours and "dilation" not in flags:
        lines["dilation"] = f"{lines['dilation']}, as published: no weight tells it"
    for part in ("front_end", "aggregation", "back_end"):
        lines[f"parameters, {part}"] = f"{_count(_below(part + '.', detector['model'])):,}"
    for name in ("epoch", "valid", "trained_on", "training", "averaged"):
        value = detector.get(name)
        if isinstance(value, dict):
            words = [
                f"{shown(k)} {v:.6g}" if isinstance(v, float) else f"{shown(k)} {shown(v)}" for k, v in value.items()
            ]
            lines[name] = " ".join(words)
        elif value is not None:
            lines[name] = ", ".join(map(shown, value)) if isinstance(value, list) else shown(value, 1000)
    return lines


def _show_encoder(path):
    for front_end in ("wav2vec2", "WavLM"):
        try:
            fields, state_dict = read_pretrained(path, front_end)
            break
        except UserError as error:
            if front_end == "WavLM" or not isinstance(error.__cause__, OtherFrontEnd):
                raise
    facts = {"kind": f"pre-trained {front_end} encoder, for --ssl_path", "parameters": f"{_count(state_dict):,}"}
    return facts | {name: fields[name] for name in ENCODER_FIELDS if name in fields}


def _files_of(path):
    return [file for file in Path(path).iterdir() if file.is_file()] if Path(path).is_dir() else [Path(path)]


def _count(state_dict):
    """Number of parameters in a state dict; running statistics are none."""
    return sum(t.numel() for name, t in state_dict.items() if "running_" not in name and "num_batches" not in name)
