"""Summary of a checkpoint file, for `checkpoint.py show`."""

from pathlib import Path

from back_ends import BACK_ENDS
from checkpoints.detectors import read_detector
from checkpoints.format import below, check_content, is_ours, load_file
from checkpoints.pretrained import read_pretrained
from checkpoints.published import AmbiguousModel
from common.console import UserError, shown
from common.values import options_text
from front_ends import FRONT_ENDS, OtherFrontEnd


def show(path: Path | str, **flags: object) -> dict[str, object]:
    """Summary of a checkpoint, {name: value}. flags and errors: as for load_detector."""
    content = None if Path(path).is_dir() else load_file(path)
    lines = {"file": f"{path}, {sum(file.stat().st_size for file in _files_of(path)):,} bytes"}
    inside = content.get("model") if isinstance(content, dict) and not is_ours(content) else None
    if content is None or (isinstance(inside, dict) and any(str(n).startswith("feature_extractor.") for n in inside)):
        return lines | _show_encoder(path)
    try:
        if is_ours(content) and "adapters" in content:  # shown without their encoder, which may be missing
            check_content(path, content)
        detector = content if is_ours(content) and "adapters" in content else read_detector(path, **flags)
        names = [detector["config"]["model_name"]]
    except AmbiguousModel as error:
        names = error.names
        detector = read_detector(path, **{**flags, "model_name": names[0]})
    ours = is_ours(content)
    lines["kind"] = "detector of this project" if ours else "detector in a published layout"
    config = {**detector["config"], "model_name": " or ".join(names)}
    if "back_end_options" in config:
        config["back_end_options"] = options_text(config["back_end_options"])
    parts = ("front_end", "aggregation", "back_end")
    if teacher := config.pop("teacher", None):
        lines["teacher"] = f"{teacher['model_name']}, included; the score is the agreement with it"
        parts = (*parts, "teacher")
    if members := config.pop("members", None):
        member_names = ", ".join(member["model_name"] for member in members)
        lines["members"] = f"{member_names}, included; the score is the mean of their scores, weighted per utterance"
        parts = (*parts, "members")
    for name, value in config.items():
        if value is not None:
            lines[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    if not ours and "dilation" in lines and "dilation" not in flags:
        lines["dilation"] = f"{lines['dilation']}, as published: the weights do not determine it"
    if BACK_ENDS[names[0].split("_", 1)[1]].normalizes:
        lines["waveforms"] = "layer-normalised over their samples, whatever ssl_config says"
    for part in parts:
        lines[f"parameters, {part}"] = f"{_count(below(part + '.', detector['model'])):,}"
    facts = ("epoch", "valid", "seen", "trained_on", "tested_on", "note", "crop", "training", "averaged", "average")
    for name in ("adapters", *facts):
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
    whose = []
    for front_end in FRONT_ENDS:
        try:
            fields, state_dict = read_pretrained(path, front_end)
            break
        except UserError as error:
            if not isinstance(error.__cause__, OtherFrontEnd):
                raise
            whose.append(str(error.__cause__))
    else:
        raise UserError(f"{path}: expected a pre-trained encoder for {' or '.join(FRONT_ENDS)}, found {whose[0]}")
    facts = {"kind": f"pre-trained {front_end} encoder, for --ssl_path", "parameters": f"{_count(state_dict):,}"}
    return facts | fields


def _files_of(path):
    return [file for file in Path(path).iterdir() if file.is_file()] if Path(path).is_dir() else [Path(path)]


def _count(state_dict):
    """Number of parameters in a state dict, without running statistics."""
    return sum(t.numel() for name, t in state_dict.items() if "running_" not in name and "num_batches" not in name)
