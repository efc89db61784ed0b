"""The demo corpus of partially spoofed utterances, in the layout of PartialSpoof: `make_demo_corpus.py --partial`.

Every utterance is genuine prompts of one speaker, joined. Stretches of it are replaced, with cross-fades at places
between sounds and at the level of what stood there: in a spoofed utterance by copy-synthesis of the same recording,
time-aligned, and by genuine speech; in a bona fide one by genuine speech alone, the same a little shifted or some of
another prompt. So a splice says nothing of the class; the probe of discontinuities measures how far that holds.
"""

import csv
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import soundfile
from scipy import signal

from common.atomic import atomic_open
from common.console import progress
from corpora import BONAFIDE, SPOOF, write_scores
from corpora.frame_scores import FrameScores, write_frame_scores
from corpora.segments import unit_labels, write_rttm
from tools.demo_attacks import RATE
from tools.demo_chain import RATE_OUT, band
from tools.demo_jobs import in_processes
from tools.demo_probes import SPLICE_PROBES, UNIT, probe_scores, probe_table, unit_probe_line, unit_probe_scores
from tools.splicing import MS, Prompt, Splice, choose_splices, cross_fade, joined, moved

SHORTEST, LONGEST = 4.0, 12.0  # seconds, of an utterance
CHAIN = (
    "Every trial: 250 to 3400 Hz, prompts of one level joined with pauses of 60 to 250 ms, 2 to 5 stretches of 0.2 to "
    "2 s replaced, noise 25 to 40 dB below the speech, random gain. `segment_labels/` tells the spoofed stretches, "
    "`splices.csv` all splices; of a spoofed utterance they are of its attack or genuine."
)
SIZES = [400, 100, 200]
BONAFIDE_SHARE = 0.5
SPOOF_SHARE = 0.6  # of the splices of a spoofed utterance, one of them at least
LETTERS = {"train": "T", "dev": "D", "eval": "E"}
PROTOCOLS = "PartialSpoof_LA_cm_protocols"


@dataclass(frozen=True)
class Utterance:
    """One trial to be made. sources: recordings of `voice`; donor: another one. attack: "-" is bona fide."""

    split: str
    attack: str
    voice: str
    sources: tuple
    donor: str
    seed: tuple
    utt_id: str = ""


class Deck:
    """The recordings of a speaker in random order, shuffled anew when all were dealt."""

    def __init__(self, paths, rng):
        self.paths, self.rng, self.left = paths, rng, []

    def top(self):
        if not self.left:
            self.left = [self.paths[i] for i in self.rng.permutation(len(self.paths))]
        return self.left[-1]

    def deal(self):
        self.top()
        return self.left.pop()


def plan(recordings, attacks, sizes, seed):
    """Plan of the Utterances. recordings: {split: {speaker: paths}}. Trial ids are shuffled: they tell nothing."""
    utterances = []
    for number, split in enumerate(LETTERS):
        rng = np.random.default_rng([seed, 1, number])
        decks = {speaker: Deck(paths, rng) for speaker, paths in recordings[split].items()}
        seconds = {path: soundfile.info(path).duration for deck in decks.values() for path in deck.paths}
        share = np.array([len(deck.paths) for deck in decks.values()])
        heard = [attack_id for attack_id, attack in attacks.items() if attack.voices.get(split)]
        n_bonafide = round(sizes[split] * BONAFIDE_SHARE)
        for i, place in enumerate(rng.permutation(sizes[split])):
            attack = "-" if place < n_bonafide else heard[place % len(heard)]
            speaker = list(decks)[rng.choice(len(decks), p=share / share.sum())]
            deck, target = decks[speaker], rng.uniform(SHORTEST + 1, LONGEST)  # silence at their ends is removed
            sources = [deck.deal()]
            total = seconds[sources[0]]
            while total < target and total + seconds[deck.top()] <= LONGEST:
                sources.append(deck.deal())
                total += seconds[sources[-1]]
            utt_id = f"CON_{LETTERS[split]}_{1000001 + i}"
            seed_of = (seed, 1, number, int(place))
            utterances.append(Utterance(split, attack, speaker, tuple(sources), deck.deal(), seed_of, utt_id))
    return utterances


def make(utterance, tools):
    """(samples, the same utterance without its splices; int16 at RATE_OUT, and the Splices)."""
    rng = np.random.default_rng(utterance.seed)
    prompts = [Prompt(path, int(LONGEST * RATE)) for path in utterance.sources]
    pauses = rng.integers(60, 250, size=len(prompts)) * MS
    base = joined([prompt.samples for prompt in prompts], pauses)[: int(LONGEST * RATE)]
    places = choose_splices(base, int(rng.integers(2, 6)), rng)
    is_spoof = np.zeros(len(places), bool)
    if utterance.attack != "-" and places:
        is_spoof = rng.random(len(places)) < SPOOF_SHARE
        is_spoof[rng.integers(len(places))] = True

    spoofed = [place for place, spoof in zip(places, is_spoof) if spoof]
    copy = copied(prompts, pauses, spoofed, utterance.attack, rng, tools)[: len(base)] if spoofed else None
    donor = Prompt(utterance.donor, int(LONGEST * RATE)).samples
    before = after = to_rate_out(base)
    splices = []
    for (start, end), spoof in zip(places, is_spoof):
        other, material = copy, utterance.attack
        if not spoof:
            other, material = moved(base, donor, start * MS, end * MS), "moved"
            if other is None or rng.random() < 0.5:
                shift = int(rng.integers(4, 40)) * MS * rng.choice([-1, 1])
                other, material = np.roll(base, shift), "shifted"
        first, last = (time * RATE_OUT // 1000 for time in (start, end))
        after = cross_fade(after, to_rate_out(other), first, last)
        splices.append(Splice(start, end, material))

    noise = to_rate_out(band(rng.standard_normal(len(base))))
    noise *= 10 ** (-rng.uniform(25, 40) / 20) / np.sqrt(np.mean(noise**2))
    gain = min(10 ** (rng.uniform(-32, -20) / 20), 0.5 / np.abs(before).max())
    return (*(in_16_bits(gain * (x + noise)) for x in (after, before)), splices)


def copied(prompts, pauses, places, attack_id, rng, tools):
    """The joined prompts by copy-synthesis; a prompt that none of the places (ms) reaches into is left empty."""
    parts, first = [], 0
    for prompt, pause in zip(prompts, pauses):
        last = first + len(prompt.samples)
        reached = any(start * MS < last and end * MS > first for start, end in places)
        parts.append(prompt.copy(attack_id, rng, tools) if reached else np.zeros_like(prompt.samples))
        first = last + pause
    return joined(parts, pauses)


def to_rate_out(x):
    return signal.resample_poly(x, RATE_OUT // RATE, 1)


def in_16_bits(x):
    return np.rint(np.clip(x, -1, 1) * 32767).astype(np.int16)


def audio_path(folder, utterance):
    return folder / utterance.split / "con_wav" / f"{utterance.utt_id}.flac"


def render(utterance, tools, folder):
    """Make one utterance and write it as FLAC. Returns (it, its length in ms, its Splices)."""
    samples, _, splices = make(utterance, tools)
    soundfile.write(audio_path(folder, utterance), samples, RATE_OUT)
    return utterance, len(samples) * 1000 // RATE_OUT, splices


# ------------------------------------------------------------------------------------------------------- labels


def segments(length, splices):
    """All of an utterance of `length` ms as [(start, end, "bonafide" or "spoof")], in ms and in order."""
    edges = [0, *(edge for start, end in spoofed_spans(splices) for edge in (start, end)), length]
    pieces = zip(edges, edges[1:], ["bonafide", "spoof"] * len(edges))
    return [(start, end, label) for start, end, label in pieces if start < end]


def write_segments(stem, labels):
    """The labels as stem.rttm and, a line an utterance, as stem.txt. labels: [(utt_id, length in ms, segments)]."""
    write_rttm(f"{stem}.rttm", {utt_id: in_seconds(pieces) for utt_id, _, pieces in labels})
    with atomic_open(f"{stem}.txt") as file:
        for utt_id, length, pieces in labels:
            key = "spoof" if any(label == "spoof" for *_, label in pieces) else "bonafide"
            spans = (f"{_seconds(start)}-{_seconds(end)}-{label}" for start, end, label in pieces)
            file.write(f"{utt_id} {_seconds(length)} {key} {' '.join(spans)}\n")


def in_seconds(pieces):
    """segments() as corpora.segments has them: seconds, and numbers as labels."""
    return [(start / 1000, end / 1000, SPOOF if label == "spoof" else BONAFIDE) for start, end, label in pieces]


def _seconds(ms):
    return f"{ms / 1000:.3f}"


def write_lists(folder, made):
    """Protocols, labels of spans and a table of all splices. Returns {speaker: its id}. made: what render returned."""
    speaker_ids = {voice: f"LA_{n:04}" for n, voice in enumerate(sorted({u.voice for u, *_ in made}), 1)}
    for split in LETTERS:
        of_split = [row for row in made if row[0].split == split]
        with atomic_open(folder / PROTOCOLS / f"PartialSpoof.LA.cm.{split}.trl.txt") as file:
            for utterance, *_ in of_split:
                words = "- bonafide" if utterance.attack == "-" else "CON spoof"
                file.write(f"{speaker_ids[utterance.voice]} {utterance.utt_id} - {words}\n")
        labels = [(u.utt_id, length, segments(length, splices)) for u, length, splices in of_split]
        write_segments(folder / "segment_labels" / split, labels)
    write_splices(folder / "splices.csv", [(utterance.utt_id, splices) for utterance, _, splices in made])
    return speaker_ids


def write_splices(path, splices_of):
    """Every splice, genuine ones too, and what it is made of. splices_of: [(utt_id, Splices)]."""
    with atomic_open(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["utt_id", "start", "end", "label", "material"])
        for utt_id, splices in splices_of:
            for splice in splices:
                label = "spoof" if splice.is_spoof else "bonafide"
                writer.writerow([utt_id, _seconds(splice.start), _seconds(splice.end), label, splice.material])


def spoofed_spans(splices):
    return [(splice.start, splice.end) for splice in splices if splice.is_spoof]


# -------------------------------------------------------------------------------------------------------- build


def build(folder, recordings, attacks, tools, sizes, seed, jobs):
    """Make the whole corpus in `folder`, which is empty. Returns (utterances, {speaker: id}, lines of the probes)."""
    for split in LETTERS:
        (folder / split / "con_wav").mkdir(parents=True)
    utterances = plan(recordings, attacks, sizes, seed)
    made = in_processes(render, utterances, (tools, folder), jobs)
    made = list(progress(made, desc="utterances", total=len(utterances), unit="utterance"))
    for utterance, _, splices in made:
        if not splices:  # no place between sounds to splice at
            audio_path(folder, utterance).unlink()
    made = [row for row in made if row[2]]
    speaker_ids = write_lists(folder, made)

    paths, units = defaultdict(dict), {}
    for utterance, length, splices in made:
        paths[utterance.split][utterance.utt_id] = audio_path(folder, utterance)
        units[utterance.utt_id] = unit_labels(in_seconds(segments(length, splices)), length / 1000, UNIT)
    utterances = [utterance for utterance, *_ in made]
    scores = probe_scores(paths, {u.utt_id: int(u.attack == "-") for u in utterances}, SPLICE_PROBES)
    for probe, values in scores.items():
        write_scores(folder / f"probe_{probe.split(',')[0].replace(' ', '_')}.txt", values)
    unit_scores = unit_probe_scores(paths, units)
    frames = ((utt_id, FrameScores(UNIT, values)) for utt_id, values in unit_scores.items())
    write_frame_scores(folder / "probe_discontinuities_frames.txt", frames)
    lines = [*probe_table(utterances, attacks, scores), "", unit_probe_line(unit_scores, units)]
    return utterances, speaker_ids, lines
