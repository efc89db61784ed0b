"""Attacks of the demo corpus: speech synthesisers, copy-synthesis, and their sentences."""

import functools
import os
import subprocess
import tempfile
import warnings
from dataclasses import dataclass

import numpy as np
import soundfile
from scipy import linalg, signal

RATE = 8000  # Hz, of the recordings and of everything until the last step
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
    x, rate = read_recording(path)
    pcm = (np.clip(x, -1, 1) * 32767).astype("<i2").tobytes()
    decoded = _call(tools, "c2dec", "1300", "-", "-", input=_call(tools, "c2enc", "1300", "-", "-", input=pcm))
    return np.frombuffer(decoded, "<i2") / 32768, rate


def griffin_lim(path, voice, rng, tools):
    """Inversion of a mel spectrogram: magnitudes by least squares, phases by Griffin & Lim, 1984."""
    import librosa

    x, rate = read_recording(path)
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
    x, rate = read_recording(path)
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

    x, rate = read_recording(path)
    x, rate = signal.resample_poly(x, 2, 1), 2 * rate  # its aperiodicity bands need more than 8 kHz
    pitch, time = pyworld.dio(x, rate)
    pitch = pyworld.stonemask(x, pitch, time, rate)
    envelope = pyworld.cheaptrick(x, pitch, time, rate)
    aperiodicity = pyworld.d4c(x, pitch, time, rate)
    return pyworld.synthesize(pitch, envelope, aperiodicity, rate), rate


def read_recording(path):
    """A recording as (samples, 8000)."""
    x, rate = soundfile.read(path, dtype="float64", always_2d=True)
    return resample(x.mean(axis=1), rate, RATE), RATE


def resample(x, rate, target):
    if rate == target:
        return x
    common = np.gcd(int(rate), target)
    return signal.resample_poly(x, target // common, int(rate) // common)


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


def sentence(voice, rng):
    """Two phrases, one, or the beginning of one, with lengths distributed like those of the prompts."""
    phrases = [str(phrase).strip() for phrase in rng.choice(TEXTS[voice[:2]], size=2, replace=False)]
    words = phrases[0].split()
    part = " ".join(words[: rng.integers(3, len(words) + 1)])
    text = [part, phrases[0], ". ".join(phrases)][rng.choice(3, p=[0.6, 0.3, 0.1])]
    return text.format(n=rng.integers(2, 12), m=rng.integers(12, 99), d=rng.integers(1, 9))
