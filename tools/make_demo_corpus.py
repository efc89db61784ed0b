"""Build a small anti-spoofing corpus from real speech, in the layout of ASVspoof 2019 LA.

    python tools/make_demo_corpus.py --out demo/corpus
    python tools/make_demo_corpus.py --out my_corpus --speech_dir RECORDINGS      (RECORDINGS/SPEAKER/*.wav, any system)
    python tools/make_demo_corpus.py --partial --long 2      (partially spoofed utterances, two files of two hours)

Bona fide trials are recordings of people: telephone prompts out of Debian's packages, or --speech_dir. Spoofed
trials are made here, by speech synthesisers (Debian's, unpacked beside the corpus, never installed) and by
copy-synthesis of the same recordings. Speakers and synthetic voices are disjoint between train, dev and eval.
All trials pass one chain - telephone band, silence removed, one level, noise - so that only the speech itself
tells the classes apart; two probes, trained on what should say nothing, measure how far that holds.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project, from wherever this is started

import common.threads  # noqa: F401

import numpy as np
import soundfile

from common.atomic import atomic_open, check_folder
from common.console import ABOVE_0, AT_LEAST_1, SEED, UserError, progress, run
from common.flags import CommandParser
from corpora import write_scores
from tools import partial_corpus
from tools.demo_attacks import ATTACKS, read_recording, sentence
from tools.demo_chain import RATE_OUT, SHORTEST, telephone
from tools.demo_jobs import in_processes
from tools.demo_packages import NOT_SPEECH, RECORDINGS, unpack_packages, unpacked_tools
from tools.demo_probes import probe_scores, probe_table
from tools.long_recordings import NAMES, build_long

LONGEST = 6.0  # seconds, of a usable recording of Debian's
SPLITS = {"train": ("T", "train.trn"), "dev": ("D", "dev.trl"), "eval": ("E", "eval.trl")}
CHAIN = "Every trial: 250 to 3400 Hz, silence cut to 60 ms, one level, noise 25 to 40 dB below it, random gain."
SIZES = [900, 200, 400]
BONAFIDE_SHARE = {"train": 0.4, "dev": 0.4, "eval": 0.35}


@dataclass(frozen=True)
class Item:
    """One trial to be made. source: a recording's path, or the text to be spoken. attack: "-" is bona fide."""

    split: str
    attack: str
    voice: str
    source: str
    seed: tuple
    utt_id: str = ""


# ---------------------------------------------------------------------------------------------------------- plan


def debian_recordings(root):
    """{split: {speaker: [paths]}} of the usable prompts, without byte-identical copies."""
    found, seen = defaultdict(lambda: defaultdict(list)), set()
    for _, folder, person, split in RECORDINGS:
        for path in sorted((root / "usr/share/asterisk/sounds" / folder).rglob("*.wav")):
            if path.is_symlink() or any(word in str(path.relative_to(root)) for word in NOT_SPEECH):
                continue
            digest = hashlib.sha256(path.read_bytes()).digest()
            if digest not in seen and SHORTEST <= soundfile.info(path).duration <= LONGEST:
                seen.add(digest)
                found[split][person].append(str(path))
    return found


def own_recordings(speech_dir, rng):
    """The same from --speech_dir, one folder a speaker; a fifth of the speakers each for dev and eval."""
    speakers = {}
    for folder in sorted(path for path in Path(speech_dir).glob("*") if path.is_dir()):
        usable = []
        for path in sorted(folder.rglob("*")):
            try:
                if path.is_file() and soundfile.info(path).duration >= SHORTEST:
                    usable.append(str(path))
            except soundfile.LibsndfileError:
                continue  # not audio: a transcript, say
        if usable:
            speakers[folder.name] = usable
    if len(speakers) < 3:
        raise UserError(
            f"--speech_dir {speech_dir}: expected at least 3 folders, one a speaker, with recordings of at least "
            f"{SHORTEST} s; found {len(speakers)}"
        )
    names = list(rng.permutation(list(speakers)))
    held_out = max(1, len(names) // 5)
    parts = {"dev": names[:held_out], "eval": names[held_out : 2 * held_out], "train": names[2 * held_out :]}
    return {split: {name: speakers[name] for name in parts[split]} for split in SPLITS}


def plan(recordings, attacks, sizes, seed):
    """Plan of the trials as Items. Trial ids are shuffled, so they carry no information."""
    items = []
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, number])
        pool = [(path, person) for person, paths in recordings[split].items() for path in paths]
        pool = [pool[i] for i in rng.permutation(len(pool))]
        pool = pool[: round(sizes[split] * BONAFIDE_SHARE[split])]
        heard = [attack_id for attack_id, attack in attacks.items() if attack.voices.get(split)]
        chosen = [("-", person, path) for path, person in pool]
        for attack_id, n in zip(heard, _shares(sizes[split] - len(pool), len(heard))):
            attack = attacks[attack_id]
            if attack.kind == "copy-synthesis":
                sources = [pool[i % len(pool)] for i in rng.permutation(max(n, len(pool)))[:n]]
                chosen += [(attack_id, person, path) for path, person in sources]
            else:
                voices = [attack.voices[split][i % len(attack.voices[split])] for i in range(n)]
                chosen += [(attack_id, voice, sentence(voice, rng)) for voice in voices]
        letter, _ = SPLITS[split]
        ids = [f"LA_{letter}_{1000001 + i}" for i in range(len(chosen))]
        order = rng.permutation(len(chosen))
        items += [Item(split, *chosen[i], seed=(seed, number, int(i)), utt_id=utt_id) for utt_id, i in zip(ids, order)]
    return items


def _shares(total, parts):
    return [total // parts + (i < total % parts) for i in range(parts)]


# -------------------------------------------------------------------------------------------------------- render


def render(item, tools, folder):
    """Make one trial and write it as FLAC. Returns its Item, or None if too little speech is left."""
    rng = np.random.default_rng(item.seed)
    if item.attack == "-":
        x, rate = read_recording(item.source)
    else:
        x, rate = ATTACKS[item.attack].synthesise(item.source, item.voice.split(":")[-1], rng, tools)
    x = telephone(x, rate, rng)
    if x is None:
        return None
    path = folder / f"ASVspoof2019_LA_{item.split}" / "flac" / f"{item.utt_id}.flac"
    soundfile.write(path, np.rint(x * 32767).astype(np.int16), RATE_OUT)
    return item


def usable_attacks(attacks, tools, recording):
    """Try every attack once. Returns (those that work, {attack id: why the others do not})."""
    working, broken = {}, {}
    for attack_id, attack in attacks.items():
        voices = [voice for split in attack.voices for voice in attack.voices[split]]
        source = recording if attack.kind == "copy-synthesis" else "Eva tells a tale"
        try:
            for voice in voices:
                x, _ = attack.synthesise(source, voice.split(":")[-1], np.random.default_rng(0), tools)
                if not np.any(x):
                    raise RuntimeError(f"voice {voice} is silent")
            working[attack_id] = attack
        except (RuntimeError, OSError, ImportError, subprocess.SubprocessError, soundfile.LibsndfileError) as error:
            broken[attack_id] = f"{attack.name}: {error}"
    return working, broken


# ----------------------------------------------------------------------------------------------------------- main


def write_lists(folder, items, attacks):
    """The protocols of ASVspoof 2019 LA, and which group each attack belongs to."""
    voices = sorted({item.voice for item in items} | {"copy"})
    speaker_ids = {voice: f"LA_{number:04}" for number, voice in enumerate(voices, 1)}
    for split, (_, name) in SPLITS.items():
        with atomic_open(folder / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{name}.txt") as file:
            for item in items:
                if item.split == split:
                    key = "bonafide" if item.attack == "-" else "spoof"
                    file.write(f"{speaker_ids[item.voice]} {item.utt_id} - {item.attack} {key}\n")
    with atomic_open(folder / "attack_groups.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["attack", "group"])
        for attack_id, attack in attacks.items():
            writer.writerow([attack_id, "seen attacks" if attack.voices.get("train") else "unseen attacks"])
            writer.writerow([attack_id, attack.kind])
    return speaker_ids


def build_whole(folder, recordings, attacks, tools, sizes, seed, jobs):
    """Make the corpus of whole utterances in `folder`. Returns (items, {voice: speaker id}, lines of the probes)."""
    for split in SPLITS:
        (folder / f"ASVspoof2019_LA_{split}" / "flac").mkdir(parents=True)
    items = plan(recordings, attacks, sizes, seed)
    n = len(items)
    made = progress(in_processes(render, items, (tools, folder), jobs), desc="trials", total=n, unit="trial")
    items = [item for item in made if item]
    if len(items) < n:
        print(f"left out: {n - len(items)} trials with too little speech")

    speaker_ids = write_lists(folder, items, attacks)
    paths = {split: {} for split in SPLITS}
    for item in items:
        paths[item.split][item.utt_id] = folder / f"ASVspoof2019_LA_{item.split}" / "flac" / f"{item.utt_id}.flac"
    scores = probe_scores(paths, {item.utt_id: int(item.attack == "-") for item in items})
    for probe, values in scores.items():
        write_scores(folder / f"probe_{probe.split(',')[0].replace(' ', '_')}.txt", values)
    return items, speaker_ids, probe_table(items, attacks, scores)


def about(settings, items):
    """Name of the corpus, and the note for every verdict of a detector trained on it; see corpora.describe."""
    recordings = "own recordings" if settings["speech_dir"] else "telephone prompts"
    attacks = [item.attack for item in items if item.split == "train"]
    note = (
        f"trained on {len(attacks)} utterances, {recordings} and {len({*attacks} - {'-'})} ways to fake them, to show "
        "how everything works; on other voices, microphones and synthesisers its verdict is worth little"
    )
    return {"name": f"the demo corpus{' of partial spoofs' * ('partial' in settings)}, {recordings}", "note": note}


def describe(settings, items, attacks, left_out, speaker_ids, chain, table):
    """The text of the corpus's own README."""
    counts = Counter((item.split, item.attack) for item in items)
    lines = ["# Demo corpus", "", f"Made by `tools/make_demo_corpus.py`, settings `{json.dumps(settings)}`.", ""]
    if not settings["speech_dir"]:
        lines += ["Bona fide speech, changed as described below:", ""]
        lines += [f"- {person}: Debian package `{package}`, {split}" for package, _, person, split in RECORDINGS]
        lines += [
            "",
            "Licences: CC-BY-SA 3.0 (ru: CC-BY 3.0), as each package's copyright file says. Recorded by Allison Smith "
            "(theivrvoice.com), June Wallack (junewallack.com), Carlo Flora (carloflora.com), ivrvoice.ru; the second "
            "Italian voice by Paola Dal Zot and Marco Menardi (voip.ammdomus.it). What is made of them is under the "
            "same licences.",
            "",
        ]
    lines += ["| attack | made by | kind | train | dev | eval |", "|---|---|---|---|---|---|"]
    names = {"-": ("bona fide", "")} | {a: (attack.name, attack.kind) for a, attack in attacks.items()}
    lines += [
        f"| {a} | {name} | {kind} | " + " | ".join(str(counts[split, a]) for split in SPLITS) + " |"
        for a, (name, kind) in names.items()
    ]
    lines += ["", *(f"Left out: {reason}" for reason in left_out), ""]
    lines += [chain]
    lines += ["", "Speakers and voices: " + ", ".join(f"{number} {voice}" for voice, number in speaker_ids.items()), ""]
    lines += ["Probes (EER on eval, 95 % interval; 50 % is no knowledge):", "", "```", *table, "```", ""]
    return "\n".join(lines)


def _words(numbers):
    return " ".join(map(str, numbers))


def parse_args(argv=None):
    parser = CommandParser(
        description="Build a small anti-spoofing corpus from real speech, in the layout of ASVspoof 2019 LA.",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the corpus (demo/corpus, or demo/partial)")
    parser.add_argument("--speech_dir", metavar="DIR", help="recordings, one folder per speaker (Debian's prompts)")
    parser.add_argument("--cache", metavar="DIR", help="folder of Debian's packages (packages, next to --out)")
    parser.add_argument(
        "--sizes",
        type=AT_LEAST_1,
        nargs=3,
        metavar="N",
        help=f"trials of train, dev and eval ({_words(SIZES)}, or {_words(partial_corpus.SIZES)} with --partial)",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="make partially spoofed utterances of 4 to 12 s, in the layout of PartialSpoof",
    )
    parser.add_argument(
        "--long",
        type=ABOVE_0,
        metavar="HOURS",
        help="--partial: add a genuine file of this length, and one with a spoofed minute in every five",
    )
    parser.add_argument("--seed", type=SEED, default=1, metavar="N", help="the same seed gives the same corpus")
    parser.add_argument("--jobs", type=AT_LEAST_1, default=os.cpu_count(), metavar="N", help="number of processes")
    args = parser.parse_args(argv)
    if args.long and not args.partial:
        parser.error("--long: expected --partial beside it")
    args.out = args.out or ("demo/partial" if args.partial else "demo/corpus")
    args.sizes = args.sizes or (partial_corpus.SIZES if args.partial else SIZES)
    if min(args.sizes) < 20:
        parser.error(f"--sizes: expected at least 20 trials each, found {args.sizes}")
    if args.jobs < 1:
        parser.error(f"--jobs: expected at least 1, found {args.jobs}")
    return args


def _inside(folder, other):
    """Whether a folder is another one or lies in it, seen through links."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(other))


def main(argv=None):
    args = parse_args(argv)
    out = Path(args.out)
    settings = {"version": 1, "seed": args.seed, "sizes": args.sizes, "speech_dir": args.speech_dir}
    settings |= {"partial": True} if args.partial else {}
    summary = out / "corpus.json"
    is_built = summary.exists() and json.loads(summary.read_text())["settings"] == settings
    long_folder = out / f"long_{args.long:g}h" if args.long else None
    if is_built and (not long_folder or long_folder.exists()):
        print(f"{out} is already built")
        return
    if out.exists() and not is_built:
        raise UserError(f"--out {out} exists and was not built with these settings; remove it or name another folder")

    building = out.with_name(out.name + ".building")
    for flag, folder in (("--speech_dir", args.speech_dir), ("--cache", args.cache)):
        if folder and any(_inside(folder, place) for place in (out, building)):
            raise UserError(f"{flag} {folder}: expected a folder outside {out} and {building}, which are written anew")
    if args.speech_dir and _inside(out, args.speech_dir):
        raise UserError(f"--out {out}: expected a folder outside --speech_dir {args.speech_dir}, all of which is read")
    check_folder(f"--out {out}", out.parent)

    sizes = dict(zip(SPLITS, args.sizes))
    if args.speech_dir:
        recordings = own_recordings(args.speech_dir, np.random.default_rng(args.seed))
        tools, candidates = {}, {a: attack for a, attack in ATTACKS.items() if attack.kind == "copy-synthesis"}
        left_out = []
    else:
        root, missing = unpack_packages(Path(args.cache or out.parent / "packages"))
        recordings, tools, candidates = debian_recordings(root), unpacked_tools(root), ATTACKS
        left_out = [f"package {package}: {reason}" for package, reason in missing.items()]
    if args.partial:
        candidates = {a: attack for a, attack in candidates.items() if attack.kind == "copy-synthesis"}
    first_recording = next(iter(recordings["train"].values()))[0]
    attacks, broken = usable_attacks(candidates, tools, first_recording)
    left_out += [f"{attack_id} {reason}" for attack_id, reason in broken.items()]
    for reason in left_out:
        print(f"left out: {reason}")
    if not any(attack.voices.get("train") for attack in attacks.values()):
        raise UserError("no attack for training works here; the reasons stand above")

    if not is_built:
        shutil.rmtree(building, ignore_errors=True)
        build = partial_corpus.build if args.partial else build_whole
        items, speaker_ids, table = build(building, recordings, attacks, tools, sizes, args.seed, args.jobs)
        chain = partial_corpus.CHAIN if args.partial else CHAIN
        (building / "README.md").write_text(describe(settings, items, attacks, left_out, speaker_ids, chain, table))
        content = {**about(settings, items), "settings": settings, "left_out": left_out}
        (building / "corpus.json").write_text(json.dumps(content, indent=1) + "\n")
        os.replace(building, out)

        counts = ", ".join(f"{n} {split}" for split, n in Counter(item.split for item in items).items())
        print(f"built {out}: {counts} trials; see {out}/README.md")
        print("probes, EER on eval with 95 % interval (50 % is no knowledge of the class):", *table, sep="\n")
    if long_folder:
        building = long_folder.with_name(long_folder.name + ".building")
        shutil.rmtree(building, ignore_errors=True)
        build_long(building, recordings, attacks, tools, args.long, args.seed, args.jobs)
        os.replace(building, long_folder)
        print(f"built {long_folder}: {', '.join(f'{name}.flac' for name in NAMES)}, their labels in long.rttm")


if __name__ == "__main__":
    run(main)
