"""Corpora: trial lists, keys, score files and where their audio lies; without torch, and without reading audio."""

from corpora.archives import KEY_PLACES, asvspoof2019_files, asvspoof2021_files, ctrsvdd_files, find_key
from corpora.asv import ASV_SPOOF, NONTARGET, TARGET, AsvTrials, find_asv, read_asv_trials, read_sasv
from corpora.audio import (
    list_audio,
    locate_audio,
    name_problem,
    read_protocol,
    read_trials,
    scan_audio,
    trials_of_folder,
    warn_of_others,
)
from corpora.scores import read_score_columns, read_scores, write_scores
from corpora.tables import BONAFIDE, FORMATS, SPOOF, SUBSETS, UNKNOWN, Trial, TrialTable, read_table
from corpora.text import AUDIO_EXTENSIONS, Column

__all__ = [
    "ASV_SPOOF",
    "AUDIO_EXTENSIONS",
    "BONAFIDE",
    "FORMATS",
    "KEY_PLACES",
    "NONTARGET",
    "SPOOF",
    "SUBSETS",
    "TARGET",
    "UNKNOWN",
    "AsvTrials",
    "Column",
    "Trial",
    "TrialTable",
    "asvspoof2019_files",
    "asvspoof2021_files",
    "ctrsvdd_files",
    "find_asv",
    "find_key",
    "list_audio",
    "locate_audio",
    "name_problem",
    "read_asv_trials",
    "read_protocol",
    "read_sasv",
    "read_score_columns",
    "read_scores",
    "read_table",
    "read_trials",
    "scan_audio",
    "trials_of_folder",
    "warn_of_others",
    "write_scores",
]
