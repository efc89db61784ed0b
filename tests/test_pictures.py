"""What the pictures show: titles, axes, ticks, and legends that hide nothing."""

import numpy as np
import pytest
from test_demo import by_ear, tone, wav  # noqa: F401
from test_report_statistics import write_trials

import easy_inference_demo
import EER_minDCF
from inference import picture
from inference.verdicts import Calibration
from reports import plots

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402


@pytest.fixture
def drawn(monkeypatch):
    """Figures that are saved in the test, laid out."""
    figures = []

    def keep(figure, path):
        FigureCanvasAgg(figure).draw()
        figures.append(figure)

    monkeypatch.setattr(plots, "_save", keep)
    return figures


def in_nobodys_way(figure):
    """Title and legends of a figure lie inside it, and on none of its axes, their labels and each other."""
    renderer = figure.canvas.get_renderer()
    boxes = [axis.get_tightbbox(renderer) for axis in figure.axes]
    others = [legend.get_window_extent(renderer) for legend in figure.legends]
    others += [figure._suptitle.get_window_extent(renderer)]
    for i, box in enumerate(others):
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside and not any(box.overlaps(other) for other in boxes + others[:i])
    assert all(axis.get_legend() is None for axis in figure.axes)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("shifts", [[2], [30], [-2, 1], [1, 2, 3, 4], [1] * 11])
def test_legends_and_titles_of_reports_hide_nothing(tmp_path, output, drawn, shifts):
    flags = [*write_trials(tmp_path, 30, 60, shifts), "--replicates", "20", "--plot", "p.png"]
    names = [f"a system with a rather long name {i}" for i in range(len(shifts))]
    output(EER_minDCF.main, [*flags, "--names", *names])
    (figure,) = drawn
    assert figure._suptitle.get_text() == "csv: 30 bona fide and 60 spoofed trials" and in_nobodys_way(figure)
    (legend,) = figure.legends
    assert [text.get_text().partition(", EER ")[0] for text in legend.get_texts()] == names
    assert all(axis.get_ylabel() for axis in figure.axes)


@pytest.mark.slow
def test_the_bars_say_what_their_lines_are_and_where_chance_is(tmp_path, output, drawn):
    flags = write_trials(tmp_path, 30, 60, [2, -3])
    sets = [part for name in "ab" for part in ("--set", name, flags[1], flags[3])]
    output(EER_minDCF.main, [*sets, "--plot", "p.png", "--replicates", "20"])
    output(EER_minDCF.main, [*sets, "--plot", "p.png", "--replicates", "0"])
    sets = [part.replace("system_0", "system_1") for part in sets]
    output(EER_minDCF.main, [*sets, "--plot", "p.png", "--replicates", "0"])
    good, without, reversed_ = (figure.axes[-1] for figure in drawn)
    assert good.get_xlabel() == "set (lines: 95 % intervals)" and without.get_xlabel() == "set"
    assert [text.get_text() for text in reversed_.texts] == ["50 %: chance"] and not good.texts
    assert drawn[0]._suptitle.get_text() == "2 sets: 60 bona fide and 120 spoofed trials"
    assert all(map(in_nobodys_way, drawn))


def test_a_line_says_where_the_picture_is(tmp_path, capsys):
    EER_minDCF.main([*write_trials(tmp_path, 30, 60, [2]), "--json", "--plot", str(tmp_path / "p.png")])
    assert capsys.readouterr().err.endswith(f": picture: {tmp_path / 'p.png'}\n")


@pytest.mark.parametrize(
    "seconds, unit, first, second, last",
    [
        (0.05, "seconds", "0", "0.01", "0.05"),
        (4, "seconds", "0", "0.5", "4"),
        (10, "seconds", "0", "1", "10"),
        (59, "seconds", "0", "5", "55"),
        (300, "minutes:seconds", "0:00", "0:30", "5:00"),
        (1500, "minutes:seconds", "0:00", "5:00", "25:00"),
        (7200, "hours:minutes", "0:00", "0:10", "2:00"),
        (3 * 86400, "hours:minutes", "0:00", "6:00", "72:00"),
    ],
)
def test_ticks_are_at_round_times(seconds, unit, first, second, last):
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    plots.mark_time(axis, seconds)
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert (labels[0], labels[1], labels[-1]) == (first, second, last) and 3 <= len(labels) <= 13
    assert axis.get_xlabel() == f"time, {unit}"
    ticks = axis.get_xticks()
    assert np.ptp(np.diff(ticks)) < 1e-9 and ticks[-1] <= seconds < ticks[-1] + ticks[1] + 1e-9


@pytest.mark.slow
def test_an_utterance_of_frames_is_drawn_over_round_times(drawn):
    spans = [(0.0, 100.0, plots.BONAFIDE), (100.0, 160.0, plots.SPOOF), (160.0, 400.0, plots.BONAFIDE)]
    scores = np.random.default_rng(0).normal(0, 1, 20_000)
    plots.draw_segments("p.png", "CON_E_1", 0.02, scores, spans, 0.0)
    (figure,) = drawn
    assert in_nobodys_way(figure) and figure._suptitle.get_text() == "CON_E_1: 20000 frames of 0.02 s"
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()][:3] == ["0:00", "1:00", "2:00"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {"spoofed", "bona fide", "score"}


# ------------------------------------------------------------------------------------------------- of a recording


def picture_of(path, judge):
    (judged,) = judge.judge({"x.wav": path}, timeline=True)
    figure = picture._picture(judged, judge, *picture._outline(path, round(judged.seconds * 16000)))
    FigureCanvasAgg(figure).draw()
    return judged, figure


@pytest.mark.slow
@pytest.mark.parametrize("seconds, unit, second", [(10, "seconds", "1"), (1800, "minutes:seconds", "5:00")])
def test_a_recording_is_drawn_over_round_times_with_the_legend_below(tmp_path, by_ear, seconds, unit, second):  # noqa: F811
    x = np.concatenate([tone(seconds / 2, 1000), tone(seconds / 2, 6000)])  # the second half is suspicious
    by_ear.threshold = by_ear.window_threshold = 0.0
    _, figure = picture_of(wav(tmp_path / "x.wav", x), by_ear)
    wave, spectrum, score = figure.axes
    assert score.get_xlabel() == f"time, {unit}" and score.get_xticklabels()[1].get_text() == second
    assert all(axis.get_ylabel() for axis in figure.axes)
    renderer = figure.canvas.get_renderer()
    box, legend = score.get_window_extent(renderer), score.get_legend().get_window_extent(renderer)
    assert legend.y1 < score.xaxis.label.get_window_extent(renderer).y0 < box.y0 and legend.y0 >= 0


@pytest.mark.slow
def test_the_probabilities_of_a_calibration_are_marked_for_a_file_scored_whole(tmp_path, by_ear):  # noqa: F811
    by_ear.threshold, by_ear.origin = 0.0, "given"
    by_ear.calibration = Calibration(8.0, -1.0, 100, 100)
    judged, figure = picture_of(wav(tmp_path / "x.wav", tone(5, 1000)), by_ear)
    (right,) = figure.axes[2].child_axes
    marks = dict(zip((label.get_text() for label in right.get_yticklabels()), right.get_yticks()))
    for word, score in marks.items():
        judged.score = score
        assert by_ear.probability(judged) == pytest.approx(float(word.split()[0]) / 100)
    assert set(marks) == {"5 %", "50 %", "95 %"}
    _, figure = picture_of(wav(tmp_path / "long.wav", tone(40, 1000)), by_ear)  # a mean of windows has no probability
    assert not figure.axes[2].child_axes


def test_the_demo_says_where_its_picture_is(tmp_path, untrained, capsys):
    path, out = wav(tmp_path / "x.wav", tone(1, 1000)), str(tmp_path / "out.png")
    easy_inference_demo.main(["--model_path", str(untrained), "--file_to_test", str(path), "--plot", out])
    assert capsys.readouterr().err.endswith(f": picture: {out}\n")
