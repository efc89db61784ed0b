"""Corpora: trial lists, keys, score files and the location of audio files. Needs no torch and reads no audio."""

from corpora.archives import find_key, key_places, official_files
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
from corpora.corpus import Corpus
from corpora.joins import places_of
from corpora.labels import BONAFIDE, BONAFIDE_HELP, SPOOF, UNKNOWN
from corpora.naming import describe, describe_data
from corpora.records import CORPORA, DEFAULT_CORPUS, SUBSETS, recipe_of, trained_as
from corpora.scores import (
    ScoreColumns,
    add_score_flags,
    check_scores,
    condition_file,
    condition_files,
    read_score_columns,
    read_scores,
    write_scores,
)
from corpora.sets import EvalSet, read_sets
from corpora.tables import Trial, TrialTable, read_table
from corpora.text import AUDIO_EXTENSIONS, Column

__all__ = [
    "ASV_SPOOF",
    "AUDIO_EXTENSIONS",
    "BONAFIDE",
    "BONAFIDE_HELP",
    "CORPORA",
    "DEFAULT_CORPUS",
    "NONTARGET",
    "SPOOF",
    "SUBSETS",
    "TARGET",
    "UNKNOWN",
    "AsvTrials",
    "Column",
    "Corpus",
    "EvalSet",
    "ScoreColumns",
    "Trial",
    "TrialTable",
    "add_score_flags",
    "check_scores",
    "condition_file",
    "condition_files",
    "describe",
    "describe_data",
    "find_asv",
    "find_key",
    "key_places",
    "list_audio",
    "locate_audio",
    "name_problem",
    "official_files",
    "places_of",
    "read_asv_trials",
    "read_protocol",
    "read_sasv",
    "read_score_columns",
    "read_scores",
    "read_sets",
    "read_table",
    "read_trials",
    "recipe_of",
    "scan_audio",
    "trained_as",
    "trials_of_folder",
    "warn_of_others",
    "write_scores",
]
