"""Lists as corpora of today and users write them: tables of every kind, labels in other words, names in other forms."""

import json
import os
import unicodedata

import numpy as np
import pytest
import soundfile

import checkpoint as checkpoint_command
import corpora
import EER_minDCF
import eval as eval_command
import train
from common.console import UserError
from corpora import BONAFIDE, SPOOF, UNKNOWN

ANTIDEEPFAKE = (
    "ID,Label,Duration,SampleRate,Path,Attack,Speaker,Proportion,AudioChannel,AudioEncoding,AudioBitSample,Language\n"
)
# {corpus: (lines of its list, the names of the utterances, {column: words})}; the first two spoofed, the last genuine.
FORMS = {
    "ASVspoof2019_PA": (
        "PA_0079 PA_T_0005401 aaa AA spoof\nPA_0080 PA_T_2 bcc CB spoof\nPA_0079 PA_T_0000001 aca - bonafide\n",
        ["PA_T_0005401", "PA_T_2", "PA_T_0000001"],
        {
            "environment": ["aaa", "bcc", "aca"],
            "attack": ["AA", "CB", "-"],
            "speaker": ["PA_0079", "PA_0080", "PA_0079"],
        },
    ),
    "ASVspoof2021_PA": (
        "PA_0010 PA_E_1 R1 M1 d1 r1 m1 s1 c1 spoof notrim eval\nPA_0010 PA_E_2 R2 M1 d1 r1 m1 s2 c1 spoof notrim eval\n"
        "PA_0011 PA_E_3 R1 M1 d1 - - - - bonafide notrim progress\n",
        ["PA_E_1", "PA_E_2", "PA_E_3"],
        {"room": ["R1", "R2", "R1"], "replay_device": ["s1", "s2", "-"], "subset": ["eval", "eval", "progress"]},
    ),
    "ASVspoof2015": (
        "D1 D1_1000001 S1 spoof\nD2 D2_1 S10 spoof\nD1 D15_1 human human\n",
        ["D1_1000001", "D2_1", "D15_1"],
        {"attack": ["S1", "S10", "-"], "speaker": ["D1", "D2", "D1"]},
    ),
    "partially_spoofed": (
        "CON_T_1 3.25 spoof 0.000-1.500-bonafide 1.500-2.100-spoof 2.100-3.250-bonafide\n"
        "CON_T_2 2 spoof 0-2-spoof\nLA_T_3 1.5 bonafide\n",
        ["CON_T_1", "CON_T_2", "LA_T_3"],
        {},
    ),
    "Codecfake": (
        "F01_SSB13650058.wav fake 1\nF06_SSB1.wav fake 6\nSSB13650058.wav real 0\n",
        ["F01_SSB13650058", "F06_SSB1", "SSB13650058"],
        {"codec": ["1", "6", "-"]},
    ),
    "ADD2022": (
        "ADD_T_00000000.wav fake\nADD_T_00000001.wav fake\nADD_T_00000002.wav genuine\n",
        ["ADD_T_00000000", "ADD_T_00000001", "ADD_T_00000002"],
        {},
    ),
    "ADD2023": (
        "ADD2023_T1.2R2_E_1.wav fake\nADD2023_T1.2R2_E_2.wav fake\nADD2023_T1.2R2_E_3.wav genuine\n",
        ["ADD2023_T1.2R2_E_1", "ADD2023_T1.2R2_E_2", "ADD2023_T1.2R2_E_3"],
        {},
    ),
    "SpeechDFArena": (
        "file_name,label\n/data/set/1.wav,spoof\n/data/set/2.flac,spoof\n/data/set/b/1.wav,bonafide\n",
        ["/data/set/1", "/data/set/2", "/data/set/b/1"],
        {},
    ),
    "AntiDeepfake": (
        ANTIDEEPFAKE + "LA-1,fake,3.1,16000,$ROOT/LA/flac/1.flac,A07,LA_1,-,1,FLAC,16,EN\n"
        "LA-2,fake,3.1,16000,$ROOT/LA/flac/2.flac,A08,LA_1,-,1,FLAC,16,EN\n"
        "VCTK-1,real,3.1,16000,$ROOT/VCTK/1.flac,-,p1,-,1,FLAC,16,DE\n",
        ["LA-1", "LA-2", "VCTK-1"],
        {"attack": ["A07", "A08", "-"], "speaker": ["LA_1", "LA_1", "p1"], "language": ["EN", "EN", "DE"]},
    ),
    "SpoofCeleb": (
        "file,speaker,attack\na01/id1/x-1.flac,id1,a01\na10/id1/x-2.flac,id1,a10\na00/id1/x-1.flac,id1,a00\n",
        ["a01/id1/x-1", "a10/id1/x-2", "a00/id1/x-1"],
        {"attack": ["a01", "a10", "-"], "speaker": ["id1", "id1", "id1"]},
    ),
}


@pytest.fixture
def write(tmp_path):
    def call(text, name="list.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return call


def words(table):
    return {name: [values[code] for code in codes] for name, (codes, values) in table.columns.items()}


@pytest.mark.parametrize("corpus", FORMS)
def test_lists_of_the_corpora_of_today(write, corpus):
    text, names, columns = FORMS[corpus]
    for lines in (text, text.replace("\n", "\r\n\r\n"), "\ufeff\n" + text.removesuffix("\n")):
        table = corpora.read_table(write(lines))
        assert table.corpus == corpus and table.utt_id == names
        assert table.label.tolist() == [SPOOF, SPOOF, BONAFIDE]
        assert {name: words(table)[name] for name in columns} == columns


def test_the_form_of_2019_is_told_by_the_third_column(write):
    physical, logical = FORMS["ASVspoof2019_PA"][0], "LA_0079 LA_T_1 - A01 spoof\nLA_0079 LA_T_2 - - bonafide\n"
    assert corpora.read_table(write(logical)).corpus == "ASVspoof2019_LA"
    assert corpora.read_table(write(logical.replace("A01", "CON"))).corpus == "PartialSpoof"
    assert corpora.read_table(write(physical)).corpus == "ASVspoof2019_PA"


def parquet(file, **columns):
    pytest.importorskip("pyarrow.parquet").write_table(pytest.importorskip("pyarrow").table(columns), file)
    return file


def test_parquet(tmp_path):
    columns = {"ID": ["u1", "u2"], "path": ["a/1.wav", "b/1.wav"], "label": ["bonafide", "spoof"]}
    table = corpora.read_table(parquet(tmp_path / "k.parquet", **columns, dataset_name=["ASV19", None]))
    assert (table.corpus, table.utt_id, table.label.tolist()) == ("DeepFense", ["u1", "u2"], [BONAFIDE, SPOOF])
    assert words(table) == {"dataset_name": ["ASV19", "-"]} and table.file == ["a/1.wav", "b/1.wav"]
    table = corpora.read_table(
        parquet(tmp_path / "own.parquet", path=["a.wav"], audio=[{"bytes": b"x"}], language=["de"])
    )
    assert (table.corpus, table.utt_id, words(table)) == ("csv", ["a"], {"language": ["de"]})

    with pytest.raises(UserError, match="x.parquet:2: .*bonafide.*perhaps"):
        corpora.read_table(parquet(tmp_path / "x.parquet", path=["a.wav", "b.wav"], label=["spoof", "perhaps"]))
    (tmp_path / "no.parquet").write_text("path,label\na.wav,spoof\n")
    for name in ("no.parquet", "nowhere.parquet"):
        with pytest.raises(UserError, match=f"{name}: "):
            corpora.read_table(tmp_path / name)
    parquet(tmp_path / "empty.parquet", path=[], label=[])
    with pytest.raises(UserError, match="expected one trial per line, found none"):
        corpora.read_table(tmp_path / "empty.parquet")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"k.parquet: .*pip install pyarrow"):
        corpora.read_table(tmp_path / "k.parquet")


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("file", ["path", "file", "filename", "file_name", "utt_id", "ID"])
def test_tables_of_every_separator_and_title(write, separator, file):
    rows = [[file, "Label", "Attack", "LANGUAGE"], ["my a.wav", "Fake", "A1", "de"], ["b/b.flac", "REAL", "", "en"]]
    for index in (False, True):  # as pandas writes it
        lines = [[("", *"01")[i], *row] if index else row for i, row in enumerate(rows)]
        for quote in ("", '"'):
            text = "\n".join(separator.join(f"{quote}{word}{quote}" for word in line) for line in lines)
            table = corpora.read_table(write(text))
            assert (table.corpus, table.utt_id, table.label.tolist()) == ("csv", ["my a", "b/b"], [SPOOF, BONAFIDE])
            assert words(table) == {"attack": ["A1", "-"], "language": ["de", "en"]}


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", " "])
def test_names_and_labels_without_a_header(write, separator):
    table = corpora.read_table(write(f"sub/a.wav{separator}spoof\nsub/b.wav{separator}bonafide\n"))
    assert (table.utt_id, table.label.tolist(), table.columns) == (["sub/a", "sub/b"], [SPOOF, BONAFIDE], {})
    with pytest.raises(UserError, match=r":2: .*found 3"):
        corpora.read_table(write(f"a{separator}spoof\nb{separator}x{separator}bonafide\n"))


def test_an_id_beside_a_path(write):
    """`utt_id` names the trial; `id`, in a table of the user's own, is a column like others."""
    table = corpora.read_table(write("utt_id,path,label\nu1,a.wav,spoof\nu2,b.wav,real\n"))
    assert (table.utt_id, table.file) == (["u1", "u2"], ["a.wav", "b.wav"])
    table = corpora.read_table(write("id,path,label\n7,a.wav,spoof\n7,b.wav,real\n"))
    assert (table.utt_id, words(table)) == (["a", "b"], {"id": ["7", "7"]})
    picked = corpora.read_table(write("utt_id,path,label\nu1,a.wav,spoof\nu2,b.wav,real\n")).select(
        np.array([False, True])
    )
    assert (picked.utt_id, picked.file, picked.trials()[0].file) == (["u2"], ["b.wav"], "b.wav")


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "LA_1 LA_E_1 - A07 genuine\n",
            [":1:", "closest corpus is ASVspoof2019_LA, whose label is bonafide or spoof, found genuine"],
        ),
        ("a real x\n", [":1:", "closest corpus is Codecfake, whose codec column matches", "found x"]),
        ("a b c d e f g h i\n", [":1:", "closest corpus is ASVspoof2021_LA, which has 8 columns"]),
        ("a.wav;b\n", [":1:", "a header with path|file", "found a.wav;b"]),
        ("a.wav|spoof|x\n", [":1:", "a header with path|file"]),
        ("a.wav;\n", [":1:", "a header with path|file"]),
        ("path;speaker;label\na.wav;s;spoof\nb.wav;real\n", [":3:", "expected the 3 columns", "found 2"]),
        ("path,file_name,label\na,a,spoof\n", [":1:", "one of the columns path|file"]),
        ("path,label\na.wav,spoof\na.wav,real\n", [":3:", "duplicate id a, first in line 2"]),
        ("u1 2.5 perhaps 0-1-spoof\n", [":1:", "closest corpus is"]),
        ("u1 2.5 spoof 0-1-spoof\nu2\n", [":2:", "partially_spoofed", "found 1"]),
    ],
)
def test_near_misses_name_file_line_and_what_differs(write, text, expected):
    path = write(text)
    with pytest.raises(UserError) as raised:
        corpora.read_protocol(path)
    for word in [str(path), *expected]:
        assert word in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_list_that_fits_two_corpora_is_refused(write, monkeypatch):
    for name in ("One", "Other"):
        record = corpora.Corpus(columns=("utt_id", "key", "x"), bonafide="live", spoof="dead", first_line={"x": "y"})
        monkeypatch.setitem(corpora.CORPORA, name, record)
    path = write("a live y\n")
    with pytest.raises(UserError, match=":1: .*One .*Other.*a live y"):
        corpora.read_table(path)
    assert corpora.read_table(path, "One").corpus == "One"


@pytest.mark.parametrize("real", ["bonafide", "Bona-Fide", "bona_fide", "REAL", "Genuine", "human"])
@pytest.mark.parametrize("fake", ["Spoof", "spoofed", "FAKE", "deepfake", "synthetic"])
def test_words_for_labels(write, real, fake):
    for text in (f"path,label\na.wav,{fake}\nb.wav,{real}\n", f"a {fake}\nb {real}\n"):
        assert corpora.read_table(write(text)).label.tolist() == [SPOOF, BONAFIDE]


def test_labels_of_corpora_in_capitals(write):
    assert corpora.read_table(write("LA_1 LA_E_1 - A07 Spoof\nLA_1 LA_E_2 - - BONAFIDE\n")).label.tolist() == [0, 1]


@pytest.mark.parametrize("text", ["path,label\na.wav,0\nb.wav,1\n", "a.wav,0\nb.wav,1\n", "a.wav 0\nb.wav 1\n"])
def test_numbers_as_labels_must_be_explained(write, text):
    path = write(text)
    with pytest.raises(UserError, match=f":{2 if 'path' in text else 1}: .* 0 .*--bonafide 0 .*--bonafide 1 "):
        corpora.read_table(path)
    assert corpora.read_table(path, bonafide="1").label.tolist() == [SPOOF, BONAFIDE]
    assert corpora.read_table(path, bonafide="0").label.tolist() == [BONAFIDE, SPOOF]
    assert corpora.read_table(path, need_labels=False).label.tolist() == [UNKNOWN, UNKNOWN]
    one_class = write(text.replace("1\n", "0\n"), "all.txt")
    assert corpora.read_table(one_class, bonafide="1").label.tolist() == [SPOOF, SPOOF]


def test_the_word_that_means_bona_fide(write):
    own = write("path,label\na.wav,machine\nb.wav,Person\n")
    with pytest.raises(UserError, match=":2: .*machine.*--bonafide WORD"):
        corpora.read_table(own)
    assert corpora.read_table(own, bonafide="person").label.tolist() == [SPOOF, BONAFIDE]
    with pytest.raises(UserError, match=":2: .*machine"):
        corpora.read_table(own, bonafide="human")
    assert corpora.read_table(write("a machine\nb person\n"), bonafide="person").label.tolist() == [SPOOF, BONAFIDE]
    three = write("path,label\na.wav,fake\nb.wav,person\nc.wav,odd\n")
    with pytest.raises(UserError, match=":4: .*odd"):
        corpora.read_table(three, bonafide="person")
    # A list that has no such word is read as ever.
    text = "LA_1 LA_E_1 - A07 spoof\nLA_1 LA_E_2 - - bonafide\n"
    assert corpora.read_table(write(text), bonafide="1").label.tolist() == [SPOOF, BONAFIDE]
    with pytest.raises(UserError, match=":1: .*bonafide .*spoof .*spo"):
        corpora.read_table(write(text.replace("spoof", "spo")), "ASVspoof2019_LA", need_labels=False)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def located(write, tmp_path, text, folder="audio", name="list.csv"):
    """{utt_id: path below `folder`} of a list."""
    trials = corpora.read_trials(write(text, name), tmp_path / folder)
    return {trial.utt_id: os.path.relpath(trial.path, tmp_path / folder) for trial in trials}


def test_backslashes_and_dots_in_names(write, tmp_path):
    touch(tmp_path, "audio/sub/a.wav", "audio/b.wav", "audio/v1.2/c.wav")
    text = "path,label\nsub\\a.wav,spoof\n./b.wav,bonafide\n.\\v1.2\\c.wav,spoof\n"
    assert located(write, tmp_path, text) == {"sub/a": "sub/a.wav", "b": "b.wav", "v1.2/c": "v1.2/c.wav"}
    with pytest.raises(UserError, match=":5: .* b, .*line 3"):
        corpora.read_table(write(text + ".\\b.wav,spoof\n"))
    # As the score file of the same names has them.
    assert corpora.read_scores(write("sub\\a.wav 1\n./b 2\nv1.2/c 3\n")) == {"sub/a": 1, "b": 2, "v1.2/c": 3}


@pytest.mark.parametrize("of_list, of_disk", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_both_forms_of_a_letter_in_unicode(write, tmp_path, of_list, of_disk):
    plain, listed = (unicodedata.normalize(form, "Ä/Größe é") for form in (of_disk, of_list))
    touch(tmp_path, f"audio/{plain}.wav")
    (trial,) = corpora.read_trials(write(f"path,label\n{listed}.wav,spoof\n"), tmp_path / "audio")
    assert (trial.utt_id, trial.path) == (unicodedata.normalize("NFC", listed), str(tmp_path / f"audio/{plain}.wav"))
    write(f"path,label\n{listed}.wav,spoof\n", "audio/list.csv")
    assert corpora.read_trials(tmp_path / "audio/list.csv")[0].path == trial.path  # found without a folder, too
    assert list(corpora.read_scores(write(f"{plain} 1\n"))) == [trial.utt_id]


def test_two_files_whose_names_differ_in_unicode_alone(write, tmp_path):
    names = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    touch(tmp_path, *(f"audio/{name}.wav" for name in names))
    text = "path,label\n" + "".join(f"{name}.wav,spoof\n" for name in names)
    assert located(write, tmp_path, text) == {name: f"{name}.wav" for name in names}


def test_endings_in_some_lines_and_not_in_others(write, tmp_path):
    touch(tmp_path, "audio/a.wav", "audio/b.flac", "audio/sub/c.opus")
    for text in ("a spoof\nb.flac bonafide\nsub/c spoof\n", "a.wav spoof\nb bonafide\nsub/c.opus spoof\n"):
        assert located(write, tmp_path, text) == {"a": "a.wav", "b": "b.flac", "sub/c": "sub/c.opus"}
    with pytest.raises(UserError, match=":2: .* a, .*line 1"):
        corpora.read_table(write("a spoof\na.wav bonafide\n"))


def test_a_list_with_endings_means_the_files_with_these(write, tmp_path):
    touch(tmp_path, "audio/a.flac", "audio/a.wav", "audio/a.mp3", "audio/b.wav.mp3", "audio/b.wav", "audio/c.flac")
    assert located(write, tmp_path, "a.wav spoof\nb.wav real\nc.wav real\n") == {
        "a": "a.wav",
        "b": "b.wav",
        "c": "c.flac",
    }
    several = {"a.wav": "a.wav", "a.mp3": "a.mp3", "c": "c.flac"}
    assert located(write, tmp_path, "a.wav spoof\na.mp3 real\nc real\n") == several
    (tmp_path / "audio/a.mp3").unlink()
    (tmp_path / "audio/a.flac").unlink()
    with pytest.raises(UserError, match="1 of 2 .* a.mp3;"):
        located(write, tmp_path, "a.wav spoof\na.mp3 real\n")


def test_the_audio_of_a_trial_with_an_id_lies_where_its_path_says(write, tmp_path):
    lines = "".join(f"x-{i},{'fake' if i else 'real'},1,16000,$ROOT/set/{i}.flac,-,-,-,1,FLAC,16,EN\n" for i in (0, 1))
    touch(tmp_path, "audio/set/0.flac", "audio/set/1.flac")
    assert located(write, tmp_path, ANTIDEEPFAKE + lines) == {"x-0": "set/0.flac", "x-1": "set/1.flac"}
    assert corpora.read_trials(write(ANTIDEEPFAKE + lines, "audio/k.csv"))[1].path.endswith("audio/set/1.flac")


def test_spoofceleb_is_found_beside_its_metadata(write, tmp_path):
    touch(tmp_path, "flac/development/a00/id1/x.flac", "flac/development/a05/id1/x.flac")
    trials = corpora.read_trials(
        write("file,speaker,attack\na00/id1/x.flac,id1,a00\na05/id1/x.flac,id1,a05\n", "metadata/development.csv")
    )
    assert [trial.path for trial in trials] == [str(tmp_path / f"flac/development/a0{i}/id1/x.flac") for i in (0, 5)]


@pytest.mark.parametrize(
    "form", ["file_name,label\n{0}/audio/x/1.wav,spoof\n", "{0}/audio/x/1.wav spoof\n", "{0}/audio/x/1\n"]
)
def test_absolute_paths_count_below_the_folder_of_audio(write, tmp_path, form):
    touch(tmp_path, "audio/x/1.flac", "audiobook/1.wav")
    path = write(form.format(tmp_path), "lists/list.txt")
    for folder in (tmp_path / "audio", tmp_path / "audio" / "x", tmp_path, "/"):
        (trial,) = corpora.read_trials(path, folder)
        assert (trial.utt_id, trial.path) == (f"{tmp_path}/audio/x/1", str(tmp_path / "audio/x/1.flac"))
    with pytest.raises(UserError, match="1 of 1 .*x/1"):
        corpora.read_trials(path, tmp_path / "audiobook")
    with pytest.raises(UserError, match="1.*lists"):
        corpora.read_trials(path)
    assert len(corpora.read_trials(write(form.format(tmp_path), "list.txt"))) == 1  # below the list's own folder
    for name in (f"{tmp_path}/audio/../audiobook/1", "C:\\data\\1.wav"):
        with pytest.raises(UserError, match="forbidden"):
            corpora.read_trials(write(f"{name} spoof\n"), tmp_path / "audio")


def test_a_wrong_folder_is_explained_in_a_line(write, tmp_path):
    touch(tmp_path, *(f"set/wav/{i}.wav" for i in range(5)), "other/x.wav")
    path = write("".join(f"{i} spoof\n" for i in range(5)))
    with pytest.raises(UserError, match=r"set: 5 of 5 .* 0, 1, 2 .*2 .*;.*") as raised:
        corpora.read_trials(path, tmp_path / "set")
    assert str(raised.value).endswith(f"; {tmp_path}/set/wav has 5 of the first 5") and raised.value.details == []
    touch(tmp_path, "set/wav/deeper/y.wav")
    with pytest.raises(UserError, match=f"; {tmp_path}/set/wav .*5 .*5$"):
        corpora.read_trials(path, tmp_path / "set/wav/deeper")
    with pytest.raises(UserError) as raised:
        corpora.read_trials(path, tmp_path / "other")
    assert str(raised.value).endswith(")")  # nowhere near
    touch(tmp_path, "case/A.WAV", "case/b.raw")
    for name, hint in (
        ("a", "found A.WAV, which differs in letter case"),
        ("b", "found b.raw, which has no audio extension"),
    ):
        with pytest.raises(UserError, match=f"; {hint}$"):
            corpora.read_trials(write(f"{name}.wav spoof\n"), tmp_path / "case")


@pytest.mark.slow
def test_commands_are_told_what_numbers_as_labels_mean(write, tmp_path, output, fails):
    """Training and reports refuse them without --bonafide; scoring needs no labels. A run keeps the choice."""
    rng = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    rows = []
    for i in range(8):
        soundfile.write(tmp_path / f"audio/{i}.wav", 0.1 * rng.standard_normal(4000), 16000)
        rows.append((str(i), i % 2))
    key = write("path;label\n" + "".join(f"{name}.wav;{label}\n" for name, label in rows), "audio/list.csv")
    lists = [
        "--train_protocol",
        str(key),
        "--dev_protocol",
        str(key),
        "--model_name",
        "LogMel_Nes2Net_X",
        "--epochs",
        "1",
    ]
    run = [*lists, "--crop", "4000", "--batch_size", "4", "--num_workers", "0", "--log_dir", str(tmp_path / "logs")]
    run += ["--foldername", "run"]
    fails(train.main, run, f"{key}:2: ", " 0 ", "--bonafide 1")
    assert "8 trials (4 bona fide, 4 spoof)" in output(train.main, [*run, "--bonafide", "0"])
    (folder,) = (tmp_path / "logs/run").iterdir()
    assert json.loads((folder / "config.json").read_text())["training"]["bonafide"] == "0"
    fails(train.main, [*run, "--bonafide", "1", "--resume", "auto"], "--bonafide", " 0", " 1")

    scores = tmp_path / "scores.txt"
    checkpoint = str(next(folder.glob("checkpoints/epoch_1.pth")))
    output(eval_command.main, ["--protocol", str(key), "--model_path", checkpoint, "--eval_output", str(scores)])
    assert list(corpora.read_scores(scores)) == [name for name, _ in rows]

    scores.write_text("".join(f"{name} {label + int(name) / 100}\n" for name, label in rows))
    report = ["--labels_file", str(key), "--path", str(scores), "--replicates", "0", "--json"]
    fails(EER_minDCF.main, report, f"{key}:2: ", " 0 ")
    for word, eer in (("1", 0), ("0", 1)):
        flags = [*report, "--bonafide", word, "--calibrate", str(scores), str(key)]
        calibrated = json.loads(output(EER_minDCF.main, flags))["rows"][0]["figures"]
        assert calibrated["eer"]["value"] == 0  # turned where need be
        flags = [*report, "--bonafide", word]
        assert json.loads(output(EER_minDCF.main, flags))["rows"][0]["figures"]["eer"]["value"] == eer
    sets = [*report[4:], "--set", "one", str(key), str(scores)]
    assert json.loads(output(EER_minDCF.main, [*sets, "--bonafide", "1"]))["rows"][0]["figures"]["eer"]["value"] == 0

    calibrate = ["calibrate", checkpoint, str(tmp_path / "out.pt"), str(scores), str(key)]
    fails(checkpoint_command.main, calibrate, "--bonafide 1")
    assert "eer 0 " in output(checkpoint_command.main, [*calibrate, "--bonafide", "1"])
