"""Help and errors of every command: short, complete on demand, and with the nearest name."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

import checkpoint
import easy_inference_demo
import eval as eval_script
import train
from common.console import run
from common.flags import CommandParser, did_you_mean, with_default
from corpora import __main__ as corpora_command
from reports import flags as report_flags
from tools import benchmark, compare, long_files, make_demo_corpus, memory_table, non_speech, onnx_table

TOOLS = (benchmark, compare, make_demo_corpus, long_files, memory_table, non_speech, onnx_table)
COMMANDS = {
    "train.py": train.parse_args,
    "eval.py": eval_script.parse_args,
    "easy_inference_demo.py": easy_inference_demo.parse_args,
    "EER_minDCF.py": report_flags.parse_args,
    "checkpoint.py": checkpoint.parse_args,
    **{
        f"checkpoint.py {name}": checkpoint.parse_args for name in ("show", "convert", "average", "export", "calibrate")
    },
    "python -m corpora": corpora_command.parse_args,
    **{f"tools/benchmark.py {stage}": benchmark.parse_args for stage in ("train", "all")},
    **{f"tools/{module.__name__.split('.')[1]}.py": getattr(module, "parse_args", module.main) for module in TOOLS},
}


def printed(capsys, name, *flags):
    with pytest.raises(SystemExit) as ended:
        COMMANDS[name]([*name.split()[1 : 2 if name[:5] in ("check", "tools") else 1], *flags])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.fixture(autouse=True)
def of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_on_a_page_and_names_no_default_that_is_none(name, capsys):
    status, text, _ = printed(capsys, name, "--help")
    lines = text.splitlines()
    assert status == 0 and 4 <= len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert text.split("\n\n")[1].strip().endswith((".", "?"))
    assert "(None)" not in text and "%" not in text and "==SUPPRESS==" not in text


@pytest.fixture
def parsers(monkeypatch):
    """The parsers that a command makes, those of its subcommands included, in order."""
    made = []

    class Recorded(CommandParser):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    for module in (train, eval_script, easy_inference_demo, checkpoint, corpora_command, report_flags, *TOOLS):
        monkeypatch.setattr(module, "CommandParser", Recorded)
    return made


@pytest.mark.parametrize("name", COMMANDS)
def test_help_all_has_every_flag_that_is_declared_each_with_help(name, capsys, parsers, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name.split()[0]])
    text = printed(capsys, name, "--help-all")[1]
    words = name.split()[1:] if "-m" not in name else []
    parser = next(one for one in parsers if one.add_help and one.prog.split()[1:] == words or "-m" in name)
    declared = [action for action in parser._actions if action.option_strings and action.help != "==SUPPRESS=="]
    assert all(action.help for action in declared)
    names = {action.option_strings[-1 if action.dest == "help" else 0] for action in declared}
    assert names == set(re.findall(r"^  (?:-h, )?(--[\w-]+)", text, re.M)) >= {"--help", "--help-all"}


@pytest.mark.parametrize("name", [*list(COMMANDS)[:4], "checkpoint.py show"])
def test_help_all_has_every_flag_and_the_short_help_counts_the_rest(name, capsys):
    short, whole = (printed(capsys, name, flag)[1] for flag in ("--help", "--help-all"))
    listed, all_flags = (set(re.findall(r"^  (?:-h, )?(--[\w-]+)", text, re.M)) for text in (short, whole))
    assert listed < all_flags
    help_flags = {"--help", "--help-all"}
    assert f"--help-all explains all flags ({len(all_flags - listed - help_flags)} more)." in short
    assert "more)." not in whole


def test_help_all_of_training_has_every_field_and_every_name_once(capsys):
    from dataclasses import fields

    from back_ends import BACK_ENDS
    from training.config import TrainingConfig
    from training.losses import LOSSES

    whole, short = (printed(capsys, "train.py", flag)[1] for flag in ("--help-all", "--help"))
    for field in fields(TrainingConfig):
        assert bool(re.search(rf"--{field.name}\b", whole)) == field.metadata.get("flag", True), field
    for name in LOSSES:
        assert re.search(rf"\b{name}\b", whole), name
    for text in (whole, short):
        start = text.index("\nmodel:\n")
        names = text[start : text.index("--model_name NAME", start)]
        for name in BACK_ENDS:
            assert len(re.findall(rf"(?<!\w){name}(?!\w)", names)) == 1, name


@pytest.mark.parametrize(
    "name, flags, expected",
    [
        ("train.py", ["--epchs", "3"], "unknown flag --epchs; did you mean --epochs?"),
        ("train.py", ["--model_nme=x"], "unknown flag --model_nme; did you mean --model_name?"),
        ("train.py", ["--model_name", "wav2vec2_AASIT"], "did you mean wav2vec2_AASIST?"),
        ("train.py", ["--model_name", "wav2vec2_AASIST", "--loss", "focl"], "; did you mean focal?"),
        ("train.py", ["--model_name", "wav2vec2_AASIST", "--zzzzzzzz"], "unknown flag --zzzzzzzz\n"),
        ("train.py", ["--model_name", "wav2vec2_AASIST", "more"], "more\n"),
        ("train.py", [], "--model_name"),
        ("eval.py", ["--modelpath", "x"], "unknown flag --modelpath; did you mean --model_path?"),
        ("easy_inference_demo.py", ["a.wav", "--jsn", "b"], "unknown flag --jsn; did you mean --json?"),
        ("EER_minDCF.py", ["a", "b", "--lables_file", "x"], "unknown flag --lables_file; did you mean --labels_file?"),
        ("EER_minDCF.py", ["a", "b", "--subset", "evl"], "; did you mean eval?"),
        ("checkpoint.py convert", ["a", "b.pth", "--bse", "x"], "unknown flag --bse; did you mean --base?"),
        ("checkpoint.py convert", ["--bse", "x"], "unknown flag --bse; did you mean --base?"),
        ("checkpoint.py", ["shw"], "; did you mean show?"),
        ("tools/benchmark.py", ["trian"], "did you mean train?"),
        ("tools/compare.py", ["--seeds", "x"], "--seeds: expected a whole number from 0"),
        ("tools/make_demo_corpus.py", ["--outt", "x"], "unknown flag --outt; did you mean --out?"),
        ("python -m corpora", ["WaveFke", "x"], "; did you mean WaveFake?"),
        ("train.py", ["--ssl_freeze_epoch=3"], "unknown flag --ssl_freeze_epoch; did you mean --SSL_freeze_epoch?"),
        ("train.py", ["--base_dir", "x"], ": error: missing --model_name\n"),
        ("train.py", ["--recipe", "aasist3"], "; did you mean AASIST?"),
        ("train.py", ["--lr"], "--lr: expected one argument"),
        ("train.py", ["--lr", "x"], ": error: --lr: expected a number of at least 0, found x\n"),
        ("EER_minDCF.py", ["--fuse", "averag"], ": error: --fuse averag: expected one of average, logistic; did"),
    ],
)
def test_a_mistake_costs_two_lines(name, flags, expected, capsys):
    status, out, err = printed(capsys, name, *flags)
    assert status == 2 and out == ""
    error, see = err.splitlines()
    assert see.startswith("see ") and see.endswith(" --help")
    assert ": error: " in error and expected in f"{error}\n"


@pytest.mark.parametrize("command, flags", [(train.main, ["--recipe", "smal"]), (corpora_command.main, ["MLAD", "x"])])
def test_names_outside_of_the_parser_offer_the_nearest_too(command, flags, capsys):
    with pytest.raises(SystemExit):
        run(lambda: command(flags))
    assert re.search(r"; did you mean (small|MLAAD)\?$", capsys.readouterr().err, re.M)


def test_the_nearest_is_near_and_keeps_its_case():
    assert did_you_mean("aasist", ["AASIST", "SLS"]) == "; did you mean AASIST?"
    assert did_you_mean("xyz", ["AASIST", "SLS"]) == ""


def test_flags_are_never_abbreviated_and_rare_ones_work(capsys):
    parser = CommandParser(prog="x", allow_abbrev=False)
    parser.add_argument("--common", help="short\nlong")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--seldom", rare=True, choices=["a" * 20, "b" * 20], help="rare one")
    assert parser.parse_args(["--seldom", "b" * 20]).seldom == "b" * 20
    assert "long" not in parser.format_help() and "seldom" not in parser.format_help()
    whole = parser.format_help(in_full=True)
    assert re.search(rf"short; long.*rare one; one\s+of\s+{'a' * 20},", whole, re.S)
    with pytest.raises(SystemExit):
        parser.parse_args(["--com", "x"])


def test_what_looks_like_a_flag_and_is_none():
    parser = CommandParser(prog="x", allow_abbrev=True)
    parser.add_argument("--offset", type=int)
    parser.add_argument("--text")
    parser.add_argument("files", nargs="*")
    assert parser.parse_args(["--offset", "-3"]).offset == -3
    assert parser.parse_args(["--off", "4", "-"]).files == ["-"]  # abbreviated, as argparse lets it be
    assert parser.parse_args(["--text", "--a b", "--", "--wav"]).files == ["--wav"]
    assert parser.parse_args(["--text=--b"]).text == "--b"
    with pytest.raises(SystemExit):
        parser.parse_args(["--zz"])
    other = CommandParser(prog="x", pass_on=True)
    assert other.parse_known_args(["--zz", "1"])[1] == ["--zz", "1"]


def test_a_long_list_of_choices_is_printed_once():
    parser = CommandParser(prog="x")
    parser.add_argument("--long", choices=["alpha", "beta", "gamma", "delta"], default="beta", help="which\nmore of it")
    parser.add_argument("--short", choices=["a", "b"], help="which", rare=True)
    text = parser.format_help(in_full=True)
    assert "  --long LONG    which (beta); more of it; one of alpha, beta, gamma, delta\n" in text
    assert text.count("gamma") == 1 and "--short {a,b}" in text
    short = parser.format_help()
    assert "--long LONG  which (beta)\n" in short and "--short" not in short and "gamma" not in short
    assert short.endswith("\n\n--help-all explains all flags (1 more).\n")


def test_the_default_is_behind_the_first_line():
    assert with_default("rate\nmore", 0.5) == "rate (0.5)\nmore"
    assert with_default("rate (%(default)s: none)", 0) == "rate (0: none)"


def test_help_starts_neither_torch_nor_a_second_pass():
    """The report's help needs numpy and scipy alone, and its parser the standard library."""
    code = "import sys, common.flags; print(sorted(sys.modules.keys() & {'torch', 'numpy'}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['numpy']")
