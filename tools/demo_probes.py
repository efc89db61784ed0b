"""Probes of a corpus: detectors that are trained on what should say nothing of the class."""

import numpy as np
import soundfile
from scipy import signal

from reports.bootstrap import bootstrap_eer
from reports.metrics import compute_eer


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
