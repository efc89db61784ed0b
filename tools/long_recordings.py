"""Recordings of hours: a genuine mix, and one with a minute of copy-synthesis in every five; see partial_corpus.py."""

from pathlib import Path

import numpy as np
import soundfile
from scipy import signal

from common.console import progress
from tools.demo_attacks import RATE
from tools.demo_chain import RATE_OUT
from tools.demo_jobs import in_processes
from tools.partial_corpus import LONGEST, Deck, in_16_bits, segments, to_rate_out, write_segments, write_splices
from tools.splicing import MS, Prompt, Splice

PERIOD, SPOOFED = 300_000, 60_000  # ms: in each period about so much is spoofed, from a prompt's start to another's end
NAMES = ("long_bonafide", "long_spoof")
LEVEL_DB, SNR_DB = -26, 30


def render_long(name: str, tools: dict, folder: Path, paths: list, attacks: list, length: int, seed: int):
    """Write folder/name.flac, `length` ms of the recordings in random order; memory does not grow with the length.

    Returns (name, length, [Splice]): the stretches in which every recording is its copy-synthesis, by the attacks in
    turn; in long_bonafide there is none.
    """
    rng = np.random.default_rng([seed, 2, NAMES.index(name)])
    deck = Deck(paths, rng)
    starts = np.arange(0, length, PERIOD) + rng.integers(PERIOD // 10, PERIOD - 2 * SPOOFED, size=-(-length // PERIOD))
    starts = list(starts) if name == "long_spoof" else []
    noise_band = signal.firwin(513, [250, 3400], pass_zero=False, fs=RATE_OUT)
    noise_db = LEVEL_DB - SNR_DB - 10 * np.log10(np.sum(noise_band**2))
    state = np.zeros(len(noise_band) - 1)
    splices, first, now = [], None, 0  # first: start of the current spoofed stretch
    with soundfile.SoundFile(folder / f"{name}.flac", "w", RATE_OUT, 1) as file:
        while now < length:
            if first is None and starts and now >= starts[0]:
                starts.pop(0)
                first = now
            prompt = Prompt(deck.deal(), int(LONGEST * RATE))
            x = prompt.samples
            if first is not None:
                attack = attacks[len(splices) % len(attacks)]
                x = prompt.copy(attack, rng, tools)
                end = min(now - (-len(x) // MS), length)
                if end - first >= SPOOFED or end == length:
                    splices.append(Splice(first, end, attack))
                    first = None
            x = np.pad(x, (0, -len(x) % MS + MS * int(rng.integers(60, 250))))
            noise, state = signal.lfilter(noise_band, 1, rng.standard_normal(len(x) * RATE_OUT // RATE), zi=state)
            x = 10 ** (LEVEL_DB / 20) * to_rate_out(x) + 10 ** (noise_db / 20) * noise
            file.write(in_16_bits(x[: (length - now) * RATE_OUT // 1000]))
            now += len(x) * 1000 // RATE_OUT
    return name, length, splices


def build_long(folder, recordings, attacks, tools, hours, seed, jobs):
    """Make both files in `folder`, of the eval speakers and attacks, with their labels."""
    folder.mkdir(parents=True)
    paths = [path for paths in recordings["eval"].values() for path in paths]
    heard = [attack_id for attack_id, attack in attacks.items() if attack.voices.get("eval")]
    shared = (tools, folder, paths, heard, round(hours * 3_600_000), seed)
    made = list(progress(in_processes(render_long, NAMES, shared, jobs), desc="long files", total=2, unit="file"))
    write_segments(folder / "long", [(name, length, segments(length, splices)) for name, length, splices in made])
    write_splices(folder / "splices.csv", [(name, splices) for name, _, splices in made])
