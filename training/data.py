"""Trials that a training is given: read from its lists, checked, in several corpora one behind the other."""

import dataclasses
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import corpora
from common.console import UserError, warn
from corpora import BONAFIDE, SPOOF, Trial
from corpora.segments import with_spans
from data_utils import check_audio
from training import distributed
from training.config import TrainingConfig


def read_trials(config: TrainingConfig) -> list[list[Trial]]:
    """Train and dev trials with their audio located. Raises UserError where anything is missing."""
    if config.train_protocol:
        recipe = corpora.trained_as(config.corpus)
        distributed.say(f"corpus: {config.corpus or 'several'}; flags that are not given are those of {recipe}")
    parts = []
    for split in ("train", "dev"):
        if config.train_protocol:
            files = (getattr(config, f"{split}_{what}") or () for what in ("protocol", "audio_dir", "segments"))
            sources = list(itertools.zip_longest(*files))
        else:
            folder = config.base_dir or config.database_path
            sources = [(*corpora.official_files(config.corpus, split, folder, config.protocols_path), None)]
        if split == "train" and "corpus" in (config.balance or ()) and len(sources) < 2:
            raise UserError(f"--balance corpus: expected several --train_protocol, found {sources[0][0]} alone")
        if split == "dev" and config.average_by == "macro_eer" and len(sources) < 2:
            raise UserError(f"--average_by macro_eer: expected several --dev_protocol, found {sources[0][0]} alone")
        trials = []
        for name, (protocol, audio, segments) in zip(names_of_lists(source[0] for source in sources), sources):
            of_list = corpora.read_trials(protocol, audio, bonafide=config.bonafide)
            if split == "train" and "attack" in (config.balance or ()):
                check_attacks(of_list, protocol)
            if split == "dev" and config.average_by == "macro_eer":
                check_classes(of_list, protocol)
            of_list = with_spans(of_list, protocol, segments) if config.unit else of_list
            trials += [dataclasses.replace(trial, corpus=name) for trial in of_list]
        counts = Counter(trial.label for trial in trials)
        names = ", ".join(str(protocol) for protocol, *_ in sources)
        distributed.say(
            f"{split}: {len(trials)} trials ({counts[BONAFIDE]} bona fide, {counts[SPOOF]} spoof) from {names}"
        )
        if config.unit:
            n_partial = sum(trial.spans is not None for trial in trials)
            distributed.say(f"{split}: {n_partial} trials have spans; the others are of one class from end to end")
            if not n_partial:
                raise UserError(
                    f"--labels {config.labels}: expected labels of segments, found none in or around {names}; "
                    f"--{split}_segments names them"
                )
        if counts[None]:
            raise UserError(f"{names}: expected labels, found {counts[None]} trials without")
        parts.append(check_classes(trials, names))
    return parts


def names_of_lists(paths: Iterable[Path | str]) -> list[str]:
    """What several lists are called in figures: their file names, behind as many folders as tell them apart."""
    parts = [Path(os.path.abspath(path)).with_suffix("").parts for path in paths]
    for n in range(1, max(map(len, parts))):
        names = [re.sub(r"[^\w.-]", "_", "_".join(part[-n:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{part[-1]}_{i}" for i, part in enumerate(parts, 1)]  # one list, with several folders of audio


def check_attacks(trials: list[Trial], protocol: Path | str) -> None:
    """Raise UserError if spoofed trials have no attack label, which --balance attack goes by."""
    spoofed = [trial for trial in trials if trial.label == SPOOF]
    if n := sum(trial.attack == "-" for trial in spoofed):
        raise UserError(
            f"--balance attack: {protocol}: expected an attack label (a column attack) for each of {len(spoofed)} "
            f"spoofed trials, found {n} without"
        )


def check_classes(trials: list[Trial], names: str) -> list[Trial]:
    """The trials. Raises UserError where they are not of both classes."""
    if {trial.label for trial in trials} != {BONAFIDE, SPOOF}:
        raise UserError(f"{names}: expected trials of both classes")
    return trials


def without_bad_audio(parts: list[list[Trial]], config: TrainingConfig) -> tuple[list[list[Trial]], int]:
    """Lists of trials without those whose audio cannot be decoded, and how many more may be skipped. Every process
    decodes a share of it all.

    Raises UserError, listing them, where they are more than --skip_bad_audio.
    """
    trials = [trial for part in parts for trial in part]
    share = trials[distributed.rank() :: distributed.world_size()]
    found = check_audio(share, config.num_workers, disable=distributed.rank() > 0)
    bad = {path: reason for part in distributed.gather(found) for path, reason in part.items()}
    if len(bad) > config.skip_bad_audio:
        allowed = f"; --skip_bad_audio allows {config.skip_bad_audio}" if config.skip_bad_audio else ""
        raise UserError(
            f"--check_audio: {len(bad)} of {len(trials)} files cannot be read (listed above){allowed}",
            details=bad.values(),
        )
    for reason in bad.values() if distributed.rank() == 0 else ():
        warn(f"skipped: {reason}")
    distributed.say(f"audio: {len(trials)} files checked, {len(bad)} skipped")
    names = ("training set without bad audio", "dev set without bad audio")
    parts = [[trial for trial in part if trial.path not in bad] for part in parts]
    return [check_classes(*pair) for pair in zip(parts, names)], config.skip_bad_audio - len(bad)
