"""Build a small anti-spoofing corpus from real speech, in the layout of ASVspoof 2019 LA.

    python tools/make_demo_corpus.py --out demo/corpus
    python tools/make_demo_corpus.py --out my_corpus --speech_dir RECORDINGS      (RECORDINGS/SPEAKER/*.wav, any system)

Bona fide trials are recordings of people: telephone prompts out of Debian's packages, or --speech_dir. Spoofed
trials are made here, by speech synthesisers (Debian's, unpacked beside the corpus, never installed) and by
copy-synthesis of the same recordings. Speakers and synthetic voices are disjoint between train, dev and eval.
All trials pass one chain - telephone band, silence removed, one level, noise - so that only the speech itself
tells the classes apart; two probes, trained on what should say nothing, measure how far that holds.
"""

import argparse
import concurrent.futures
import csv
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import signal as signals
import subprocess
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project, from wherever this is started

import common.threads  # noqa: F401

import numpy as np
import soundfile
from scipy import linalg, signal

from common.atomic import atomic_open, check_folder
from common.console import AT_LEAST_1, OF_THE_MACHINE, SEED, UserError, progress, run
from corpora import write_scores
from reports.bootstrap import bootstrap_eer
from reports.metrics import compute_eer

RATE = 8000  # Hz, of the recordings and of everything until the last step
RATE_OUT = 16000
SHORTEST, LONGEST = 0.8, 6.0  # seconds, of a usable recording
SPLITS = {"train": ("T", "train.trn"), "dev": ("D", "dev.trl"), "eval": ("E", "eval.trl")}
BONAFIDE_SHARE = {"train": 0.4, "dev": 0.4, "eval": 0.35}

# package, its folder, the person who speaks, the split that the person belongs to
RECORDINGS = [
    ("asterisk-core-sounds-en-wav", "en_US_f_Allison", "Allison Smith", "train"),
    ("asterisk-core-sounds-es-wav", "es_MX_f_Allison", "Allison Smith", "train"),
    ("asterisk-core-sounds-fr-wav", "fr_CA_f_June", "June Wallack", "train"),
    ("asterisk-core-sounds-it-wav", "it_IT_m_Carlo", "Carlo Flora", "train"),
    ("asterisk-core-sounds-ru-wav", "ru_RU_f_IvrvoiceRU", "IvrvoiceRU", "dev"),
    ("asterisk-prompt-it-menardi-wav", "it_IT_f_Menardi", "Paola Dal Zot", "eval"),
]
# Sounds that are no speech, single letters, and jokes.
NOT_SPEECH = (
    "silence/",
    "letters/",
    "beep",
    "2tone",
    "tt-monkeys",
    "tt-weasels",
    "confbridge-join",
    "confbridge-leave",
)
SYNTHESISERS = [
    "espeak-ng",
    "flite",
    "festival",
    "festvox-us-slt-hts",
    "festvox-ca-ona-hts",
    "festvox-italp16k",
    "festvox-itapc16k",
    "festvox-kdlpc16k",
    "codec2",
]

# What the synthesisers say: {n} and {m} are numbers, {d} a digit.
TEXTS = {
    "en": """
        The person you are calling is not available right now
        Please leave a message after the tone
        You have {n} new messages and {m} old ones
        Thank you for waiting, somebody will answer soon
        The office opens at {n} in the morning
        To hear the list again, press {d}
        Your account number ends with {m}
        There are {n} callers ahead of you
        I did not understand what you said
        This call may be recorded for training
        The train to the airport leaves in {n} minutes
        Goodbye, and have a pleasant evening
    """,
    "fr": """
        Votre correspondant ne peut pas vous répondre
        Merci de laisser un message après le signal
        Vous avez {n} nouveaux messages
        Pour continuer, appuyez sur la touche {d}
        Le bureau ouvre à {n} heures du matin
        Il y a encore {m} personnes devant vous
        Le numéro demandé n'existe pas
        Je n'ai pas compris votre réponse
    """,
    "es": """
        La persona que busca no está disponible
        Deje su mensaje después de la señal
        Usted tiene {n} mensajes nuevos
        Para volver al menú, pulse {d}
        La oficina abre a las {n} de la mañana
        Hay {m} llamadas delante de la suya
        Gracias por su paciencia
        No he entendido su respuesta
    """,
    "it": """
        La persona chiamata non è raggiungibile
        Lasciate un messaggio dopo il segnale
        Ci sono {n} messaggi nuovi nella casella
        Per tornare al menù, premere {d}
        L'ufficio apre alle {n} del mattino
        Ci sono ancora {m} persone in attesa
        Grazie per la pazienza, a presto
        Il numero richiesto non esiste
    """,
    "ca": """
        La persona que busqueu no es pot posar al telèfon
        Deixeu el vostre missatge després del senyal
        Teniu {n} missatges nous
        Per tornar al menú, premeu {d}
        L'oficina obre a les {n} del matí
        Hi ha {m} trucades davant de la vostra
        Gràcies per la paciència
        No he entès la resposta
    """,
    "ru": """
        Абонент сейчас не может ответить
        Оставьте сообщение после сигнала
        У вас {n} новых сообщений
        Чтобы продолжить, нажмите {d}
        Перед вами ещё {m} человек
        Спасибо за ожидание
        Набранный номер не существует
        Офис открывается в {n} часов
    """,
}
TEXTS = {language: text.strip().splitlines() for language, text in TEXTS.items()}


@dataclass(frozen=True)
class Attack:
    """kind: "text-to-speech" or "copy-synthesis". voices: {split: [voice]}; a split without voices never hears it."""

    name: str
    kind: str
    voices: dict
    synthesise: callable


@dataclass(frozen=True)
class Item:
    """One trial to be made. source: a recording's path, or the text to be spoken. attack: "-" is bona fide."""

    split: str
    attack: str
    voice: str
    source: str
    seed: tuple
    utt_id: str = ""


# --------------------------------------------------------------------------------------------------- synthesisers
# Each takes (source, voice, rng, tools) and returns (samples, rate).


def _call(tools, program, *arguments, input=None):
    command = [tools.get(program, program), *arguments]
    environment = {**os.environ, "LD_LIBRARY_PATH": tools.get("libraries", "")}
    done = subprocess.run(command, input=input, capture_output=True, env=environment, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _speak(write, suffix=".wav"):
    """Call write(path of a temporary wav) and read what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "speech" + suffix)
        write(path)
        return soundfile.read(path)


def espeak(text, voice, rng, tools):
    speed, pitch = rng.integers(130, 190), rng.integers(30, 70)
    flags = ["-v", voice, "-s", str(speed), "-p", str(pitch)] + tools.get("espeak_flags", [])
    return _speak(lambda path: _call(tools, "espeak-ng", *flags, "-w", path, text))


def flite(text, voice, rng, tools):
    stretch = f"duration_stretch={rng.uniform(0.85, 1.15):.2f}"
    return _speak(lambda path: _call(tools, "flite", "-voice", voice, "--setf", stretch, "-t", text, "-o", path))


def festival(text, voice, rng, tools):
    def write(path):
        script = (
            f"(voice_{voice}) (Parameter.set 'Duration_Stretch {rng.uniform(0.9, 1.15):.2f}) "
            f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{path}" \'riff)'
        )
        _call(tools, "festival", *tools.get("festival_flags", []), "--pipe", input=script.encode("latin-1"))

    return _speak(write)


def codec2(path, voice, rng, tools):
    x, rate = _recording(path)
    pcm = (np.clip(x, -1, 1) * 32767).astype("<i2").tobytes()
    decoded = _call(tools, "c2dec", "1300", "-", "-", input=_call(tools, "c2enc", "1300", "-", "-", input=pcm))
    return np.frombuffer(decoded, "<i2") / 32768, rate


def griffin_lim(path, voice, rng, tools):
    """A mel spectrogram, inverted: magnitudes by least squares, phases by Griffin & Lim, 1984."""
    import librosa

    x, rate = _recording(path)
    mel, inverse = _mel_filters()
    sizes = {"n_fft": 512, "hop_length": 80, "win_length": 320}
    magnitude = np.abs(librosa.stft(x, **sizes))
    magnitude = np.maximum(inverse @ (mel @ magnitude), 1e-5)
    return librosa.griffinlim(magnitude, n_iter=30, random_state=int(rng.integers(2**31)), **sizes), rate


@functools.cache
def _mel_filters():
    import librosa

    mel = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=64)
    return mel, np.linalg.pinv(mel)


def lpc10(path, voice, rng, tools):
    """Linear prediction of order 10, excited by pulses or noise: the idea of LPC-10 (Tremain, 1982), uncoded."""
    x, rate = _recording(path)
    x = signal.lfilter([1, -0.9375], [1], x)
    order, hop, width = 10, 180, 360
    lags = np.arange(rate // 400, rate // 60)
    low_passed = signal.sosfiltfilt(signal.butter(4, 900, fs=rate, output="sos"), x)
    window = np.hamming(width)
    out, state, next_pulse = [], np.zeros(order), 0.0
    for start in range(0, len(x) - width, hop):
        correlation = signal.correlate(low_passed[start : start + width], low_passed[start : start + width], "full")
        correlation = correlation[width - 1 :] / (width - np.arange(width))
        period = lags[np.argmax(correlation[lags])]
        voiced = correlation[period] > 0.45 * correlation[0]
        frame = x[start : start + width] * window
        r = signal.correlate(frame, frame, "full")[width - 1 : width + order]
        if r[0] < 1e-9:
            out.append(np.zeros(hop))
            continue
        r[0] *= 1.0001
        predictor = linalg.solve_toeplitz(r[:order], r[1 : order + 1])
        gain = np.sqrt(max(r[0] - predictor @ r[1 : order + 1], 0) / np.sum(window**2))
        if voiced:
            excitation = np.zeros(hop)
            while next_pulse < hop:
                excitation[int(next_pulse)] = np.sqrt(period)
                next_pulse += period
            next_pulse -= hop
        else:
            excitation, next_pulse = rng.standard_normal(hop), 0.0
        y, state = signal.lfilter([gain], np.concatenate([[1], -predictor]), excitation, zi=state)
        out.append(y)
    return signal.lfilter([1], [1, -0.9375], np.concatenate(out)), rate


def world(path, voice, rng, tools):
    """The WORLD vocoder (Morise et al., 2016): pitch, spectral envelope and aperiodicity, and back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyworld's way to find its version is deprecated
        import pyworld

    x, rate = _recording(path)
    x, rate = signal.resample_poly(x, 2, 1), 2 * rate  # its aperiodicity bands need more than 8 kHz
    pitch, time = pyworld.dio(x, rate)
    pitch = pyworld.stonemask(x, pitch, time, rate)
    envelope = pyworld.cheaptrick(x, pitch, time, rate)
    aperiodicity = pyworld.d4c(x, pitch, time, rate)
    return pyworld.synthesize(pitch, envelope, aperiodicity, rate), rate


# ------------------------------------------------------------------------------------------------- the one chain


def _recording(path):
    """A recording as (samples, 8000)."""
    x, rate = soundfile.read(path, dtype="float64", always_2d=True)
    return _resample(x.mean(axis=1), rate, RATE), RATE


def _resample(x, rate, target):
    if rate == target:
        return x
    common = np.gcd(int(rate), target)
    return signal.resample_poly(x, target // common, int(rate) // common)


_BAND = signal.firwin(257, [250, 3400], pass_zero=False, fs=RATE)


def _band(x):
    return signal.fftconvolve(x, _BAND, mode="same")


def _squeeze(x, keep=0.06):
    """Cut silence at both ends and shorten every pause to `keep` seconds."""
    hop = RATE // 100
    n = len(x) // hop
    if n < 3:
        return x
    level = 10 * np.log10(np.mean(x[: n * hop].reshape(n, hop) ** 2, axis=1) + 1e-12)
    speech = level > np.percentile(level, 95) - 30
    speech = np.convolve(speech, np.ones(3), "same") > 0  # 10 ms more on each side
    kept, pause = np.zeros(n, bool), 0
    for i in range(n):
        pause = 0 if speech[i] else pause + 1
        kept[i] = pause <= round(keep * 100)
    inside = np.flatnonzero(speech)
    if len(inside):
        kept[: inside[0]] = kept[inside[-1] + 1 :] = False
    return x[: n * hop].reshape(n, hop)[kept].ravel()


def telephone(x, rate, rng):
    """What both classes go through: samples at any rate to float samples at 16 kHz, 0.8 to 4 s, full scale 1."""
    x = _squeeze(_band(_resample(np.asarray(x, dtype=np.float64), rate, RATE)))
    length = int(rng.uniform(1.2, 4.0) * RATE)
    if len(x) > length:
        start = rng.integers(len(x) - length + 1)
        x = x[start : start + length]
    if len(x) < SHORTEST * RATE / 2 or not np.any(x):
        return None
    x = x / np.sqrt(np.mean(x**2))
    noise = _band(rng.standard_normal(len(x)))
    snr_db = rng.uniform(25, 40)
    x = x + noise / np.sqrt(np.mean(noise**2)) / 10 ** (snr_db / 20)
    gain_db = rng.uniform(-32, -20)  # of the RMS level, relative to full scale
    x = signal.resample_poly(x, RATE_OUT // RATE, 1) * 10 ** (gain_db / 20)
    return x / max(1.0, np.max(np.abs(x)) / 0.99)


# ------------------------------------------------------------------------------------------------------- attacks

SEEN, UNSEEN = ("train", "dev", "eval"), ("eval",)


def _copies(splits):
    return {split: ["copy"] for split in splits}


# Voices, LANGUAGE:NAME, are disjoint between the splits by person: flite's slt and the HTS voice slt are one woman.
ATTACKS = {
    "A01": Attack(
        "espeak-ng, formants",
        "text-to-speech",
        {
            "train": [
                *("en:en-us+m1", "en:en-gb+f2", "en:en-us+klatt2", "fr:fr-fr+m3", "fr:fr-fr+f4", "es:es-419+f1"),
                *("es:es+m7", "it:it+m5", "it:it+belinda", "en:en-us+steph", "en:en-gb+max", "fr:fr-fr+linda"),
            ],
            "dev": ["ru:ru+f5", "ru:ru+m6", "en:en-us+anika"],
            "eval": ["it:it+f3", "it:it+m4", "it:it+aunty", "en:en-gb+m2"],
        },
        espeak,
    ),
    "A02": Attack(
        "flite, diphones and clustergen",
        "text-to-speech",
        {"train": ["en:kal16", "en:slt"], "dev": ["en:awb"], "eval": ["en:rms"]},
        flite,
    ),
    "A03": Attack(
        "festival, HTS",
        "text-to-speech",
        {"train": ["en:cmu_us_slt_arctic_hts"], "eval": ["ca:upc_ca_ona_hts"]},
        festival,
    ),
    "A04": Attack("mel spectrogram, Griffin-Lim", "copy-synthesis", _copies(SEEN), griffin_lim),
    "A05": Attack("LPC, pulses and noise", "copy-synthesis", _copies(SEEN), lpc10),
    "A06": Attack("WORLD", "copy-synthesis", _copies(SEEN), world),
    "A07": Attack(
        "festival, diphones",
        "text-to-speech",
        {"eval": ["it:lp_diphone", "it:pc_diphone", "en:ked_diphone"]},
        festival,
    ),
    "A08": Attack("codec2, 1300 bit/s", "copy-synthesis", _copies(UNSEEN), codec2),
}


# ---------------------------------------------------------------------------------------------- Debian's packages


def unpack_packages(cache):
    """Download and unpack the recordings and the synthesisers below `cache`; needs apt-get and dpkg, no root.

    Returns (root folder, {package: reason} of what could not be had). Raises UserError without the recordings.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise UserError("the recordings are Debian packages, and there is no apt-get here: give --speech_dir instead")
    recordings = [package for package, *_ in RECORDINGS]
    missing = _unpack(cache, recordings) | _unpack(cache, SYNTHESISERS, dependencies=True)
    absent = [package for package in recordings if package in missing]
    if absent:
        raise UserError(
            f"{len(absent)} packages of recordings cannot be had: {', '.join(absent)} ({missing[absent[0]]}); "
            "is the network up? --speech_dir builds from your own recordings"
        )
    return cache / "root", missing


def _unpack(cache, packages, dependencies=False):
    """Download and unpack packages, one by one where not all can be had. Returns {package: reason} of those."""
    stamps = [cache / "unpacked" / package for package in packages]
    if all(stamp.exists() for stamp in stamps):
        return {}
    apt = _Apt(cache)
    try:
        wanted = apt.with_dependencies(packages) if dependencies else packages
        for file in progress(apt.download(wanted), desc="unpacking", unit="package"):
            subprocess.run(["dpkg", "-x", file, cache / "root"], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        if len(packages) > 1:
            return {name: why for package in packages for name, why in _unpack(cache, [package], dependencies).items()}
        said = error.stderr.decode(errors="replace").strip().splitlines()
        return {packages[0]: said[-1] if said else str(error)}
    for stamp in stamps:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    return {}


class _Apt:
    """apt-get without root: falls back to package lists of its own where the system has none."""

    def __init__(self, cache):
        self.downloads, self.lists = cache / "downloads", (cache / "apt").resolve()
        self.downloads.mkdir(parents=True, exist_ok=True)
        self.options = []

    def _run(self, *arguments, cwd=None):
        command = ["apt-get", *self.options, *arguments]
        try:
            return subprocess.run(command, cwd=cwd, capture_output=True, check=True)
        except subprocess.CalledProcessError:
            if self.options:
                raise
        (self.lists / "lists/partial").mkdir(parents=True, exist_ok=True)
        self.options = ["-o", f"Dir::State::lists={self.lists}/lists", "-o", f"Dir::Cache={self.lists}"]
        self._run("update")
        return self._run(*arguments, cwd=cwd)

    def with_dependencies(self, packages):
        """The packages and what they need that this system has not."""
        plan = self._run("--simulate", "--no-install-recommends", "install", *packages).stdout.decode()
        return sorted({*packages, *(line.split()[1] for line in plan.splitlines() if line.startswith("Inst "))})

    def download(self, packages):
        absent = [package for package in packages if not list(self.downloads.glob(f"{package}_*.deb"))]
        if absent:
            print(f"downloading {len(absent)} Debian packages", flush=True)
            with tempfile.TemporaryDirectory(dir=self.downloads) as folder:  # a file under its name is a whole one
                self._run("download", *absent, cwd=folder)
                for path in Path(folder).glob("*.deb"):
                    os.replace(path, self.downloads / path.name)
        return [file for package in packages for file in self.downloads.glob(f"{package}_*.deb")]


def unpacked_tools(root):
    """Programs and settings for the synthesisers that were unpacked below `root`."""
    root = root.resolve()
    libraries = sorted({str(path.parent) for path in root.rglob("*.so*")})
    tools = {path.name: str(path) for path in (root / "usr/bin").glob("*")}
    for data in root.rglob("espeak-ng-data"):
        tools["espeak_flags"] = [f"--path={data.parent}"]
    scheme = str(root / "usr/share/festival")
    return {**tools, "libraries": ":".join(libraries), "festival_flags": ["--datadir", scheme, "--libdir", scheme]}


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
    """The list of Items: which recording or text becomes which trial. Trial ids are shuffled, so say nothing."""
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
                chosen += [(attack_id, voice, _sentence(voice, rng)) for voice in voices]
        letter, _ = SPLITS[split]
        ids = [f"LA_{letter}_{1000001 + i}" for i in range(len(chosen))]
        order = rng.permutation(len(chosen))
        items += [Item(split, *chosen[i], seed=(seed, number, int(i)), utt_id=utt_id) for utt_id, i in zip(ids, order)]
    return items


def _shares(total, parts):
    return [total // parts + (i < total % parts) for i in range(parts)]


def _sentence(voice, rng):
    """Two phrases, one, or the beginning of one: about as long, and as varied in length, as the prompts."""
    phrases = [str(phrase).strip() for phrase in rng.choice(TEXTS[voice[:2]], size=2, replace=False)]
    words = phrases[0].split()
    part = " ".join(words[: rng.integers(3, len(words) + 1)])
    text = [part, phrases[0], ". ".join(phrases)][rng.choice(3, p=[0.6, 0.3, 0.1])]
    return text.format(n=rng.integers(2, 12), m=rng.integers(12, 99), d=rng.integers(1, 9))


# -------------------------------------------------------------------------------------------------------- render


def render(item, tools, folder):
    """Make one trial and write it as FLAC. Returns its Item, or None where too little speech is left."""
    rng = np.random.default_rng(item.seed)
    if item.attack == "-":
        x, rate = _recording(item.source)
    else:
        x, rate = ATTACKS[item.attack].synthesise(item.source, item.voice.split(":")[-1], rng, tools)
    x = telephone(x, rate, rng)
    if x is None:
        return None
    path = folder / f"ASVspoof2019_LA_{item.split}" / "flac" / f"{item.utt_id}.flac"
    soundfile.write(path, np.rint(x * 32767).astype(np.int16), RATE_OUT)
    return item


def render_all(items, tools, folder, jobs):
    """Generator of render() of each item, in order, by `jobs` processes. Raises UserError where one of them dies."""
    try:
        pool = concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_process)
    except OSError as error:  # of a semaphore, which is a small file there
        if error.errno in OF_THE_MACHINE:
            raise
        raise UserError(f"/dev/shm: {error.strerror}; --jobs {jobs} needs a few bytes of it") from error
    with pool:
        try:
            n = len(items)
            yield from pool.map(render, items, [tools] * n, [folder] * n, chunksize=8)
        except concurrent.futures.process.BrokenProcessPool as error:
            why = "killed perhaps because memory ran out; fewer need less"
            raise UserError(f"--jobs {jobs}: a process that makes trials ended early, {why}") from error
        finally:
            pool.shutdown(cancel_futures=True)  # nobody waits for what has not begun


def _start_process():
    import threadpoolctl

    for number in (signals.SIGINT, signals.SIGHUP):  # they reach all processes of a terminal: the main one decides
        signals.signal(number, signals.SIG_IGN)
    threadpoolctl.threadpool_limits(1)  # one process per core is enough


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


# --------------------------------------------------------------------------------------------------------- probes


def probe_features(path):
    """What should say nothing of the class: (level, duration, silence; 4,) and the spectrum's mean shape (40,)."""
    x, rate = soundfile.read(path)
    frames = 10 * np.log10(np.mean(x[: len(x) // 160 * 160].reshape(-1, 160) ** 2, axis=1) + 1e-12)
    quiet = np.percentile(frames, 5) - np.percentile(frames, 95)
    plain = [10 * np.log10(np.mean(x**2)), len(x) / rate, quiet, np.mean(frames < np.percentile(frames, 95) - 20)]
    _, spectrum = signal.welch(x, rate, nperseg=512)
    spectrum = 10 * np.log10(spectrum[8:108].reshape(-1, 5).mean(axis=1) + 1e-15)  # 250 to 3375 Hz
    return plain, spectrum - spectrum.mean()


PROBES = ["level, duration, silence", "long-term spectrum"]


def probe_scores(paths, labels):
    """Scores of the eval trials, one {utt_id: score} a probe: logistic regression on features of the train trials.

    paths: {split: {utt_id: path}}; labels: {utt_id: 1 bona fide, 0 spoof}.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = {split: [probe_features(path) for path in paths[split].values()] for split in ("train", "eval")}
    scores = []
    for probe in range(len(PROBES)):
        train, test = ([row[probe] for row in features[split]] for split in ("train", "eval"))
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        model.fit(train, [labels[utt_id] for utt_id in paths["train"]])
        scores.append(dict(zip(paths["eval"], model.decision_function(test).tolist())))
    return scores


def probe_table(items, attacks, scores):
    """Lines of the probes' EER on eval, in %, with 95 % intervals: per attack and per kind of attack."""
    eval_items = [item for item in items if item.split == "eval"]
    rows = {attack_id: [attack_id] for attack_id in attacks}
    rows |= {kind: [a for a in attacks if attacks[a].kind == kind] for kind in ("copy-synthesis", "text-to-speech")}
    rows["all attacks"] = list(attacks)
    lines = [f"{'':16}" + "".join(f"{probe:>28}" for probe in PROBES)]
    for name, members in rows.items():
        cells = []
        for probe in scores:
            bonafide = [probe[item.utt_id] for item in eval_items if item.attack == "-"]
            spoof = [probe[item.utt_id] for item in eval_items if item.attack in members]
            if spoof:
                (low, high), eer = bootstrap_eer(bonafide, spoof), compute_eer(bonafide, spoof)[0]
                cells.append(f"{100 * eer:6.1f} % ({100 * low:4.1f} to {100 * high:4.1f})")
        if cells:
            lines.append(f"{name:16}" + "".join(f"{cell:>28}" for cell in cells))
    return lines


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


def describe(settings, items, attacks, left_out, speaker_ids, table):
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
    lines += ["Every trial: 250 to 3400 Hz, silence cut to 60 ms, one level, noise 25 to 40 dB below it, random gain."]
    lines += ["", "Speakers and voices: " + ", ".join(f"{number} {voice}" for voice, number in speaker_ids.items()), ""]
    lines += ["Probes (EER on eval, 95 % interval; 50 % is no knowledge):", "", "```", *table, "```", ""]
    return "\n".join(lines)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Build a small anti-spoofing corpus from real speech, in the layout of ASVspoof 2019 LA.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", default="demo/corpus", help="folder of the corpus")
    parser.add_argument("--speech_dir", help="own recordings, a folder a speaker; None: Debian's telephone prompts")
    parser.add_argument("--cache", help="folder for Debian's packages; None: `packages` beside --out")
    parser.add_argument(
        "--sizes", type=AT_LEAST_1, nargs=3, default=[900, 200, 400], help="trials of train, dev and eval"
    )
    parser.add_argument("--seed", type=SEED, default=1, help="same seed, same corpus")
    parser.add_argument("--jobs", type=AT_LEAST_1, default=os.cpu_count(), help="processes")
    args = parser.parse_args(argv)
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
    summary = out / "corpus.json"
    if summary.exists() and json.loads(summary.read_text())["settings"] == settings:
        print(f"{out} is already built")
        return
    if out.exists():
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
    first_recording = next(iter(recordings["train"].values()))[0]
    attacks, broken = usable_attacks(candidates, tools, first_recording)
    left_out += [f"{attack_id} {reason}" for attack_id, reason in broken.items()]
    for reason in left_out:
        print(f"left out: {reason}")
    if not any(attack.voices.get("train") for attack in attacks.values()):
        raise UserError("no attack for training works here; the reasons stand above")

    shutil.rmtree(building, ignore_errors=True)
    for split in SPLITS:
        (building / f"ASVspoof2019_LA_{split}" / "flac").mkdir(parents=True)
    items = plan(recordings, attacks, sizes, args.seed)
    n = len(items)
    made = progress(render_all(items, tools, building, args.jobs), desc="trials", total=n, unit="trial")
    items = [item for item in made if item]
    if len(items) < n:
        print(f"left out: {n - len(items)} trials with too little speech")

    speaker_ids = write_lists(building, items, attacks)
    paths = {split: {} for split in SPLITS}
    for item in items:
        paths[item.split][item.utt_id] = building / f"ASVspoof2019_LA_{item.split}" / "flac" / f"{item.utt_id}.flac"
    scores = probe_scores(paths, {item.utt_id: int(item.attack == "-") for item in items})
    for probe, values in zip(PROBES, scores):
        write_scores(building / f"probe_{probe.split(',')[0].replace(' ', '_')}.txt", values)
    table = probe_table(items, attacks, scores)
    (building / "README.md").write_text(describe(settings, items, attacks, left_out, speaker_ids, table))
    (building / "corpus.json").write_text(json.dumps({"settings": settings, "left_out": left_out}, indent=1) + "\n")
    os.replace(building, out)

    counts = Counter(item.split for item in items)
    print(
        f"built {out}: " + ", ".join(f"{counts[split]} {split}" for split in SPLITS) + f" trials; see {out}/README.md"
    )
    print("probes, EER on eval with 95 % interval (50 % is no knowledge of the class):", *table, sep="\n")


if __name__ == "__main__":
    run(main)
