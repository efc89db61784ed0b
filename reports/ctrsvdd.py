"""The report of the published CtrSVDD script, line for line, and the trials of each of its lines."""

import numpy as np

from corpora import BONAFIDE, TrialTable
from reports.published import published_ctrsvdd


def masks(table: TrialTable) -> dict[tuple[str, str], np.ndarray]:
    """{(by, name): mask (trials,)} of the published lines and of the organisers' lines; {} if acesinger is absent.

    A dataset line has all its trials. "Excluding A14 only" keeps the bona fide trials of acesinger. An attack line has
    all bona fide trials except those of acesinger; A14 has those as well.
    """
    (datasets, dataset_names), (attacks, attack_names) = table.columns["dataset"], table.columns["attack"]
    if "acesinger" not in dataset_names:
        return {}
    ace = datasets == dataset_names.index("acesinger")
    a14 = attacks == (attack_names.index("A14") if "A14" in attack_names else -1)
    is_bonafide = table.label == BONAFIDE
    conditions = {("excluding", "A14 only"): ~a14, ("excluding", "both acesinger and A14"): ~a14 & ~ace}
    for code in sorted(set(datasets.tolist()), key=lambda code: dataset_names[code]):
        conditions["dataset", dataset_names[code]] = datasets == code
    for name in table.in_order("attack", {attack_names[code] for code in np.unique(attacks[~is_bonafide])}):
        mask = attacks == attack_names.index(name)
        conditions["attack", name] = mask | is_bonafide if name == "A14" else (mask | is_bonafide) & ~ace
    return conditions


def print_report(scores: np.ndarray, table: TrialTable, places: np.ndarray) -> None:
    """Print the published report. scores: (trials,); places: (trials,) line of each trial in the score file.

    Datasets are printed in the order of the score file. See `masks` for the trials of each line.
    """
    rule = "-" * 57
    order = np.argsort(places)
    datasets, dataset_names = table.columns["dataset"]
    attacks, attack_names = table.columns["attack"]
    is_bonafide = table.label == BONAFIDE
    ace = datasets == (dataset_names.index("acesinger") if "acesinger" in dataset_names else -1)
    without_a14 = attacks != (attack_names.index("A14") if "A14" in attack_names else -1)
    without_both = without_a14 & ~ace

    def figures(mask):
        eer, min_dcf = published_ctrsvdd(scores[mask & is_bonafide], scores[mask & ~is_bonafide])
        return f"EER: {100 * eer:.4f}%  minDCF: {min_dcf:.6f}"

    print(rule)
    for code in dict.fromkeys(datasets[order].tolist()):
        if dataset_names[code] != "acesinger":
            print(f"dataset {dataset_names[code]} - {figures(datasets == code)}")
    print(rule)
    print(f"excluding A14 only, #: {without_a14.sum()}\n- {figures(without_a14)}")
    print(rule)
    print(f"excluding both acesinger and A14, #: {without_both.sum()}\n- {figures(without_both)}")
    for attack in sorted(attack_names[code] for code in np.unique(attacks[without_both & ~is_bonafide])):
        mask = attacks == attack_names.index(attack)
        print(f"(atkID {attack}) - {figures(without_both & (is_bonafide | mask))}")
    print(rule)
