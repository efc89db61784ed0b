"""Corpora: trial lists, keys and score files, without torch and without audio."""

from corpora.protocols import read_protocol

__all__ = ["read_protocol"]
