"""Probes of a corpus: detectors trained on features that should carry no information about the class."""

import numpy as np
import soundfile
from scipy import signal

from reports.bootstrap import (
    Stratum,
    bootstrap_curves,
    bootstrap_eer,
    bootstrap_figure,
    cluster_weights,
    percentile_interval,
)
from reports.curves import curve_eer, eer_point
from reports.metrics import compute_eer


def plain_features(x, rate):
    """Level, duration and silence, which should carry no information about the class; (4,)."""
    frames = 10 * np.log10(np.mean(x[: len(x) // 160 * 160].reshape(-1, 160) ** 2, axis=1) + 1e-12)
    quiet = np.percentile(frames, 5) - np.percentile(frames, 95)
    return [10 * np.log10(np.mean(x**2)), len(x) / rate, quiet, np.mean(frames < np.percentile(frames, 95) - 20)]


def spectrum_features(x, rate):
    """The shape of the mean spectrum, 250 to 3375 Hz; (20,)."""
    _, spectrum = signal.welch(x, rate, nperseg=512)
    spectrum = 10 * np.log10(spectrum[8:108].reshape(-1, 5).mean(axis=1) + 1e-15)
    return spectrum - spectrum.mean()


def discontinuities(x, rate):
    """Cues of a cut in each frame of 20 ms, (frames, 4), in dB.

    Its greatest second difference over the RMS one of 100 ms around; its power above 3.8 kHz, which the telephone band
    leaves empty, over that of 100 ms around; the change of level, and of the spectrum's shape, from the frame before to
    the frame behind.
    """
    hop = rate // 50
    n = len(x) // hop
    bend = np.pad(np.diff(x, 2), 1)[: n * hop].reshape(n, hop)
    power = np.abs(np.fft.rfft(x[: n * hop].reshape(n, hop) * np.hanning(hop))) ** 2 + 1e-12
    place = np.fft.rfftfreq(hop, 1 / rate)
    above = power[:, place > 3800].sum(axis=1)
    bands = 10 * np.log10(power[:, (place >= 250) & (place < 3450)].reshape(n, -1, 4).mean(axis=2))
    level = bands.mean(axis=1, keepdims=True)

    def step(values):  # from the frame before to the one behind
        padded = np.pad(values, ((1, 1), (0, 0)), mode="edge")
        return np.sqrt(np.mean((padded[2:] - padded[:-2]) ** 2, axis=1))

    def around(values):
        return np.maximum(np.convolve(np.pad(values, 2, mode="edge"), np.full(5, 0.2), "valid"), 1e-20)

    jump = 20 * np.log10(np.abs(bend).max(axis=1) + 1e-10) - 10 * np.log10(around(np.mean(bend**2, axis=1)))
    hiss = 10 * np.log10(above / around(above))
    return np.stack([jump, hiss, step(level), step(bands - level)], axis=1)


def discontinuity_features(x, rate):
    """The greatest of each of the discontinuities in an utterance, (4,)."""
    return discontinuities(x, rate).max(axis=0)


PROBES = {"level, duration, silence": plain_features, "long-term spectrum": spectrum_features}
SPLICE_PROBES = {**PROBES, "discontinuities": discontinuity_features}
UNIT = 0.16  # seconds, of the probe that looks at each part of an utterance


def probe_scores(paths, labels, probes=PROBES):
    """{probe: {utt_id: score}} of the eval trials, by logistic regression on features of the train trials.

    paths: {split: {utt_id: path}}; labels: {utt_id: 1 bona fide, 0 spoof}; probes: {name: features of (x, rate)}.
    """
    features = {
        split: [[probe(*audio) for probe in probes.values()] for audio in map(soundfile.read, paths[split].values())]
        for split in ("train", "eval")
    }
    scores = {}
    for i, probe in enumerate(probes):
        train, test = ([row[i] for row in features[split]] for split in ("train", "eval"))
        values = _fitted(train, [labels[utt_id] for utt_id in paths["train"]], test)
        scores[probe] = dict(zip(paths["eval"], values.tolist()))
    return scores


def _fitted(train, labels, test):
    """Scores (n,) of `test` by a logistic regression on the rows of `train`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return model.fit(train, labels).decision_function(test)


def unit_probe_scores(paths, unit_labels):
    """{utt_id: scores (units,)} of the eval trials: the probe of discontinuities, one score per UNIT.

    paths: {split: {utt_id: path}}; unit_labels: {utt_id: (units,) 1 bona fide, 0 spoof}.
    """
    features = {}
    for utt_id, path in (pair for split in ("train", "eval") for pair in paths[split].items()):
        frames = discontinuities(*soundfile.read(path))
        starts = np.arange(len(unit_labels[utt_id])) * round(UNIT / 0.02)
        features[utt_id] = np.maximum.reduceat(frames, starts)
    train, labels = (np.concatenate([rows[utt_id] for utt_id in paths["train"]]) for rows in (features, unit_labels))
    scores = _fitted(train, labels, np.concatenate([features[utt_id] for utt_id in paths["eval"]]))
    ends = np.cumsum([len(unit_labels[utt_id]) for utt_id in paths["eval"]])
    return dict(zip(paths["eval"], np.split(scores, ends[:-1])))


def probe_table(items, attacks, scores):
    """Lines of the probes' EER on eval, in %, with 95 % intervals: per attack and per kind of attack."""
    eval_items = [item for item in items if item.split == "eval"]
    rows = {attack_id: [attack_id] for attack_id in attacks}
    rows |= {kind: [a for a in attacks if attacks[a].kind == kind] for kind in ("copy-synthesis", "text-to-speech")}
    rows["all attacks"] = list(attacks)
    lines = [f"{'':16}" + "".join(f"{probe:>28}" for probe in scores)]
    for name, members in rows.items():
        cells = []
        for probe in scores.values():
            bonafide = [probe[item.utt_id] for item in eval_items if item.attack == "-"]
            spoof = [probe[item.utt_id] for item in eval_items if item.attack in members]
            if spoof:
                (low, high), eer = bootstrap_eer(bonafide, spoof), compute_eer(bonafide, spoof)[0]
                cells.append(f"{100 * eer:6.1f} % ({100 * low:4.1f} to {100 * high:4.1f})")
        if cells:
            lines.append(f"{name:16}" + "".join(f"{cell:>28}" for cell in cells))
    return lines


def unit_probe_line(scores, unit_labels):
    """The EER of unit_probe_scores in words; its 95 % interval is of utterances drawn whole."""
    values, labels = (np.concatenate([rows[utt_id] for utt_id in scores]) for rows in (scores, unit_labels))
    clusters = np.repeat(np.arange(len(scores)), [len(row) for row in scores.values()])
    is_bonafide = labels == 1
    classes = [(values[mask], clusters[mask]) for mask in (is_bonafide, ~is_bonafide)]
    (bonafide, bonafide_of), (spoof, spoof_of) = classes
    stratum = Stratum(clusters=(bonafide_of, spoof_of), weights=cluster_weights(clusters, is_bonafide))
    curves = bootstrap_curves(bonafide, spoof, points=[eer_point], strata=[stratum])
    eer, replicates = bootstrap_figure(curve_eer, *curves[0])
    low, high = percentile_interval(replicates)
    return (
        f"discontinuities in units of {1000 * UNIT:.0f} ms: {100 * eer:.1f} % ({100 * low:.1f} to {100 * high:.1f}), "
        f"{len(bonafide)} bona fide and {len(spoof)} spoofed units"
    )
