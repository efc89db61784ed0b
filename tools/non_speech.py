"""Verdicts of a detector on sounds that are not speech, and on speech, as a table; see docs/doubts.md.

python tools/non_speech.py --model_path CKPT.pt --protocol demo/corpus/.../ASVspoof2019.LA.cm.eval.trl.txt
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project, from wherever this is started

import common.threads  # noqa: F401

import numpy as np
import soundfile
import torch
from scipy import signal

import corpora
from common.audio import SAMPLE_RATE
from common.console import Number, run
from common.flags import CommandParser
from inference.judging import Judge

KEYPAD = [(low, high) for low in (697, 770, 852, 941) for high in (1209, 1336, 1477)]  # Hz. Source: ITU-T Q.23


def sounds(seconds: float = 4.0, seed: int = 0) -> dict[str, np.ndarray]:
    """{name: (samples,) at 16 kHz} of sounds that are not speech; their peak is 0.3."""
    rng = np.random.default_rng(seed)
    n = round(seconds * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    white = rng.standard_normal(n)

    def tone(hertz):
        """hertz: a number, or one for every sample."""
        return np.sin(2 * np.pi * np.cumsum(np.broadcast_to(hertz, n)) / SAMPLE_RATE)

    def saw(hertz):
        return signal.sawtooth(2 * np.pi * np.cumsum(np.broadcast_to(hertz, n)) / SAMPLE_RATE)

    def every(gap, start=0.0):
        return np.arange(start, seconds, gap)

    def struck(at, decay):
        return np.where(t >= at, np.exp(-(t - at).clip(0) / decay), 0)

    def during(start, length):
        return (t >= start) & (t < start + length)

    def coloured(power):
        """Noise whose power falls with this power of the frequency."""
        return np.fft.irfft(np.fft.rfft(white) * np.arange(1, n // 2 + 2.0) ** (-power / 2), n)

    def low(x, cut):
        return signal.lfilter(*signal.butter(2, cut, fs=SAMPLE_RATE), x)

    clicks = np.zeros(n)
    clicks[:: SAMPLE_RATE // 3] = 1
    keys = [KEYPAD[i] for i in rng.integers(len(KEYPAD), size=len(every(0.25)))]
    bits = np.repeat(rng.integers(2, size=n // 53 + 1), 53)[:n]
    chords, melody, barks, birds = np.zeros((4, n))
    for i, start in enumerate(every(0.8)):
        for interval in (1, 5 / 4, 3 / 2, 2):
            root = (220, 174.6, 196, 261.6)[i % 4] * interval
            chords += struck(start, 0.5) * during(start, 0.8) * sum(tone(root * k) / k**1.5 for k in range(1, 7))
    for start in every(0.3):
        pitch = 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
        melody += saw(pitch) * during(start, 0.28) * ((t - start) / 0.02).clip(0, 1)
    for start in every(0.6, 0.2):
        throat = saw(350 + 350 * struck(start, 0.05)) + 0.5 * white
        barks += struck(start, 0.06) * signal.lfilter([1], [1, -1.5, 0.64], throat)
    for start in every(0.35, 0.1):
        birds += tone(4000 + 1500 * np.sin(2 * np.pi * 25 * (t - start))) * during(start, 0.15)
    drums = sum(0.3 * np.diff(white, prepend=0) * struck(start, 0.03) for start in every(0.25))
    drums += sum(2 * tone(60 + 60 * struck(start, 0.05)) * struck(start, 0.12) for start in every(0.5))
    drums += sum(white * struck(start, 0.08) for start in every(1, 0.5))
    made = {
        "two tones with noise": 0.3 * tone(440) + 0.3 * tone(1250) + 0.02 * white,
        "white noise": white,
        "pink noise": coloured(1),
        "brown noise": coloured(2),
        "hum of the mains": sum(tone(50 * k) / k for k in range(1, 9)) + 0.01 * white,
        "clicks": clicks,
        "metronome": tone(2000) * sum(struck(start, 0.02) for start in every(0.5)),
        "dial tone": tone(350) + tone(440),
        "busy tone": (tone(480) + tone(620)) * (t % 1 < 0.5),
        "touch tones": sum((tone(a) + tone(b)) * during(s, 0.15) for (a, b), s in zip(keys, every(0.25))),
        "fax": tone(1300 + 800 * bits),
        "siren, wailing": np.sign(tone(900 + 500 * np.sin(np.pi * t))),
        "siren, two tones": tone(np.where(t % 1 < 0.5, 450, 600)) + 0.3 * tone(np.where(t % 1 < 0.5, 1350, 1800)),
        "alarm clock": np.sign(tone(2048)) * (t % 0.2 < 0.1) * (t % 1 < 0.6),
        "sweep": signal.chirp(t, 50, seconds, 7500, "logarithmic"),
        "chords": chords,
        "drums": drums,
        "chords and drums": chords / np.abs(chords).max() + 0.6 * drums / np.abs(drums).max(),
        "melody": low(melody, 2000),
        "organ": sum(tone(130.8 * k) for k in (1, 2, 3, 4, 6, 8)) * (1 + 0.1 * tone(6)),
        "barks": barks,
        "birds": birds,
        "engine": signal.lfilter([1], [1, -0.95], saw(40 + 5 * tone(0.3)) + 0.3 * white),
        "wind": low(white, 500) * (1 + 0.8 * tone(0.4)),
        "rain": 0.3 * signal.lfilter([1, -0.9], [1], white) + 3 * white * (rng.random(n) < 0.002),
        "applause": sum(rng.random() * white * struck(start, 0.01) for start in rng.uniform(0, seconds, 100)),
        "footsteps": sum(low(white, 300) * struck(start, 0.04) for start in every(0.55, 0.2)),
    }
    made = {name: 0.3 * x / np.abs(x).max() for name, x in made.items()}
    return {**made, "silence": np.zeros(n), "silence with noise of one bit": np.round(0.6 * white) / 32768}


def print_row(*cells):
    print(f"| {' | '.join(cells)} |")


def said(judge, judged):
    """(verdict, probability, doubts) in words."""
    verdict, probability = judge.finding(judged) or "no verdict", judge.probability(judged)
    return verdict, "-" if probability is None else f"{probability:.3f}", judge.doubts(judged)


def main(argv=None):
    parser = CommandParser(description="Print a detector's verdicts on sounds that are not speech.")
    parser.add_argument("--model_path", required=True, metavar="CKPT", help="a checkpoint")
    parser.add_argument("--protocol", metavar="LIST", help="also count refusals and doubts on a trial list")
    parser.add_argument("--seconds", type=Number(float, 0.1), default=4.0, metavar="N", help="length of each sound [s]")
    args = parser.parse_args(argv)
    judge = Judge(args.model_path, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, x in sounds(args.seconds).items():
            files[name] = str(Path(folder) / f"{name}.wav")
            soundfile.write(files[name], x, SAMPLE_RATE)
        print_row("sound", "seconds of speech", "score", "verdict", "probability", "why, or doubts")
        print_row("---", "--:", "--:", "---", "--:", "---")
        for judged in judge.judge(files):
            verdict, probability, doubts = said(judge, judged)
            speech = "-" if judged.sound.speech is None else f"{judged.sound.speech:.2f}"
            score = "-" if judged.score is None else f"{judged.score:.2f}"
            print_row(judged.file, speech, score, verdict, probability, "; ".join(doubt.text for doubt in doubts))
    if args.protocol:
        trials = corpora.read_trials(args.protocol)
        for label, name in ((corpora.BONAFIDE, "bona fide"), (corpora.SPOOF, "spoofed")):
            files = {trial.path: trial.path for trial in trials if trial.label == label}
            counts = Counter()
            for judged in judge.judge(files):
                counts.update(doubt.name for doubt in judge.doubts(judged))
                counts["no verdict"] += bool(judge.refusal(judged))
            print(f"{len(files)} {name} recordings: {', '.join(f'{n} {what}' for what, n in counts.items())}")


if __name__ == "__main__":
    run(main)
