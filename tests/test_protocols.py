import os

import numpy as np
import pytest

import corpora
from common.console import UserError
from corpora import BONAFIDE, SPOOF, Trial

# Two official lines or three of each corpus, a bona fide one among them, and the labels.
SAMPLES = {
    "ASVspoof2019_LA": "LA_0039 LA_E_2834763 - A11 spoof\nLA_0014 LA_E_8877452 - - bonafide\n"
    "LA_0001 LA_E_1 - A07 spoof\n",
    "PartialSpoof": "LA_0079 CON_T_0000029 - CON spoof\nLA_0098 LA_T_9497115 - - bonafide\n"
    "LA_0079 CON_T_1 - CON spoof\n",
    "ASVspoof2021_LA": "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval\n"
    "LA_0020 LA_E_7294490 none - bonafide bonafide notrim eval\n"
    "LA_0009 LA_E_5 gsm loc_tx A08 spoof only_speech hidden\n",
    "ASVspoof2021_DF": "LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -\n"
    "TEF2 DF_E_2000013 low_m4a vcc2020 Task1-team20 spoof notrim eval neural_vocoder_autoregressive Task1 team20 FF E\n"
    "VCC2SF1 DF_E_2000026 mp3m4a vcc2018 bonafide bonafide notrim eval bonafide - - - -\n",
    "CtrSVDD": "jvsmusic CtrSVDD_0097 CtrSVDD_0097_D_0010993 - A06 deepfake\n"
    "kiritan CtrSVDD_0001 CtrSVDD_0001_D_0000001 - - bonafide\nkiritan CtrSVDD_0001 CtrSVDD_0001_D_2 - A06 deepfake\n",
    "ASVspoof5": "E_1607 E_0009538969 M C05 2 E_0009486171 AC1 A26 spoof -\n"
    "E_0004 E_0000000002 F - 0 E_0000000002 - bonafide bonafide -\nE_1607 E_3 M C05 2 E_3 AC2 A17 spoof -\n",
    "ASVspoof5_metainfo": "T_4850 T_0000000000 F - A05 spoof\nT_0001 T_0000000001 M - bonafide bonafide\n"
    "T_4850 T_2 F - A05 spoof\n",
    "in_the_wild": "file,speaker,label\n0.wav,Alec Guinness,spoof\n1.wav,Barack Obama,bona-fide\n2.wav,2Pac,spoof\n",
    "csv": "path,label,attack,room\nsub/a.wav,spoof,A1,big\nsub/b.flac,bonafide,-,small\nc.wav,spoof,A2,small\n",
    "tsv": "path\tlabel\tattack\troom\nmy a.wav\tspoof\tA1\tbig\nb.flac\tbonafide\t\tsmall\nc.wav\tspoof\tA2\tsmall\n",
}
ASVSPOOF2019, CTRSVDD = SAMPLES["ASVspoof2019_LA"], SAMPLES["CtrSVDD"]


@pytest.fixture
def write(tmp_path):
    def call(text, name="protocol.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return call


EXPECTED = {
    "ASVspoof2019_LA": {
        "utt_id": ["LA_E_2834763", "LA_E_8877452", "LA_E_1"],
        "speaker": ["LA_0039", "LA_0014", "LA_0001"],
        "attack": ["A11", "-", "A07"],
    },
    "PartialSpoof": {"utt_id": ["CON_T_0000029", "LA_T_9497115", "CON_T_1"], "attack": ["CON", "-", "CON"]},
    "ASVspoof2021_LA": {
        "utt_id": ["LA_E_9332881", "LA_E_7294490", "LA_E_5"],
        "codec": ["alaw", "none", "gsm"],
        "transmission": ["ita_tx", "-", "loc_tx"],
        "attack": ["A07", "-", "A08"],
        "subset": ["eval", "eval", "hidden"],
        "trim": ["notrim", "notrim", "only_speech"],
    },
    "ASVspoof2021_DF": {
        "utt_id": ["DF_E_2000011", "DF_E_2000013", "DF_E_2000026"],
        "speaker": ["LA_0023", "TEF2", "VCC2SF1"],
        "codec": ["nocodec", "low_m4a", "mp3m4a"],
        "source": ["asvspoof", "vcc2020", "vcc2018"],
        "attack": ["A14", "Task1-team20", "-"],
        "subset": ["progress", "eval", "eval"],
        "vocoder": ["traditional_vocoder", "neural_vocoder_autoregressive", "-"],
        "task": ["-", "Task1", "-"],
        "team": ["-", "team20", "-"],
        "gender_pair": ["-", "FF", "-"],
        "language": ["-", "E", "-"],
    },
    "CtrSVDD": {
        "utt_id": ["CtrSVDD_0097_D_0010993", "CtrSVDD_0001_D_0000001", "CtrSVDD_0001_D_2"],
        "dataset": ["jvsmusic", "kiritan", "kiritan"],
        "speaker": ["CtrSVDD_0097", "CtrSVDD_0001", "CtrSVDD_0001"],
        "attack": ["A06", "-", "A06"],
    },
    "ASVspoof5": {
        "utt_id": ["E_0009538969", "E_0000000002", "E_3"],
        "speaker": ["E_1607", "E_0004", "E_1607"],
        "gender": ["M", "F", "M"],
        "codec": ["C05", "-", "C05"],
        "codec_quality": ["2", "0", "2"],
        "attack_tag": ["AC1", "-", "AC2"],
        "attack": ["A26", "-", "A17"],
    },
    "ASVspoof5_metainfo": {
        "utt_id": ["T_0000000000", "T_0000000001", "T_2"],
        "gender": ["F", "M", "F"],
        "attack": ["A05", "-", "A05"],
    },
    "in_the_wild": {"utt_id": ["0", "1", "2"], "speaker": ["Alec Guinness", "Barack Obama", "2Pac"]},
    "csv": {"utt_id": ["sub/a", "sub/b", "c"], "attack": ["A1", "-", "A2"], "room": ["big", "small", "small"]},
    "tsv": {"utt_id": ["my a", "b", "c"], "attack": ["A1", "-", "A2"], "room": ["big", "small", "small"]},
}


def words(table):
    columns = {name: [values[code] for code in codes] for name, (codes, values) in table.columns.items()}
    return {"utt_id": table.utt_id, **columns}


@pytest.mark.parametrize("corpus", SAMPLES)
def test_official_lines_of_every_corpus(write, corpus):
    path = write(SAMPLES[corpus])
    table = corpora.read_table(path)
    assert table.corpus == corpus.replace("tsv", "csv")
    assert table.label.tolist() == ([SPOOF, SPOOF, BONAFIDE] if "DF" in corpus else [SPOOF, BONAFIDE, SPOOF])
    found = words(table)
    assert {name: found[name] for name in EXPECTED[corpus]} == EXPECTED[corpus]
    first, *_ = corpora.read_protocol(path)
    assert (first.utt_id, first.label, first.path) == (EXPECTED[corpus]["utt_id"][0], SPOOF, None)
    for name in ("attack", "speaker", "dataset", "codec"):
        assert getattr(first, name) == found.get(name, "-")[0]


@pytest.mark.parametrize("corpus", SAMPLES)
def test_line_ends_blank_lines_and_trailing_blanks_are_harmless(write, corpus):
    clean = corpora.read_table(write(SAMPLES[corpus], "clean.txt"))
    messy = SAMPLES[corpus].replace("\n", ("  " if corpus != "tsv" else "") + "\r\n\r\n").removesuffix("\r\n\r\n")
    if corpus not in ("in_the_wild", "csv", "tsv"):
        messy = messy.replace(" ", "\t")
    found = corpora.read_table(write("\ufeff\n" + messy, "messy.txt"))
    assert words(found) == words(clean) and found.label.tolist() == clean.label.tolist()


def damaged(corpus, text):
    """Ten ways in which a file comes to harm: {name: (text or bytes, what the message must hold)}."""
    lines = text.splitlines()
    separator = {"in_the_wild": ",", "csv": ",", "tsv": "\t"}.get(corpus, " ")
    table = separator != " "
    last, n = lines[-1].split(separator), len(lines)
    columns = lines[0].split(separator) if table else list(corpora.CORPORA[corpus].columns)
    label = next(i for i, name in enumerate(columns) if name in ("key", "label"))
    name = next(i for i, column in enumerate(columns) if column in ("utt_id", "path", "file"))
    other = lines[1 if table else 0].split(separator)
    head = "\n".join(lines[:-1]) + "\n"

    def line(*values):
        return head + separator.join(values) + "\n"

    def swapped(values, i, value):
        return [*values[:i], value, *values[i + 1 :]]

    return {
        "empty": ("", ["expected one trial per line"]),
        "a column less": (line(*last[:-1]), [f":{n}:", f"found {len(last) - 1}"]),
        "a column more": (line(*last, "x"), [f":{n}:", f"found {len(last) + 1}"]),
        "unknown label": (line(*swapped(last, label, "perhaps")), [f":{n}:", "found perhaps"]),
        "a number as label": (line(*swapped(last, label, "1")), [f":{n}:", "--bonafide 1"]),
        "an id twice": (line(*swapped(last, name, other[name])), [f":{n}:", f"line {2 if table else 1}"]),
        "two lines in one": (head[:-1] + lines[-1] + "\n", [f":{n - 1}:", "found"]),
        "cut in the middle of a line": (head + lines[-1][: len(lines[-1]) // 3], [f":{n}:", "found"]),
        "a page instead": ("<!DOCTYPE html>\n<html>404, not found</html>\n", [":1:", "found"]),
        "zero bytes": (text[:-2] + "\0\0\0", ["zero byte"]),
        "no text": (b"\x1f\x8b\x08\xff" + text.encode(), ["not UTF-8"]),
    }


@pytest.mark.parametrize("corpus", SAMPLES)
def test_damaged_files_of_every_corpus_are_refused_with_file_and_line(write, corpus):
    for what, (text, expected) in damaged(corpus, SAMPLES[corpus]).items():
        path = write(text)
        with pytest.raises(UserError) as raised:
            corpora.read_protocol(path)
        message = str(raised.value)
        assert "\n" not in message, what
        for word in [str(path), *expected]:
            assert word in message, (what, message)


def test_columns_that_are_missing_in_one_line_and_too_many_in_the_next_are_found(write):
    rows = SAMPLES["ASVspoof5"].split("\n")
    rows[1] = " ".join(rows[1].split()[:-1])
    rows[2] += " -"
    with pytest.raises(UserError, match=":2: .*found 9"):
        corpora.read_protocol(write("\n".join(rows)))


def test_a_file_longer_than_a_piece_is_read_whole(write, monkeypatch):
    text = "".join(
        f"LA_{i % 7} LA_E_{i} - {'-' if i % 3 else 'A1'} {'bonafide' if i % 3 else 'spoof'}\n" for i in range(500)
    )
    whole = corpora.read_table(write(text))
    monkeypatch.setattr(corpora.text, "_PIECE", 100)
    pieces = corpora.read_table(write(text))
    assert words(pieces) == words(whole) and pieces.utt_id == [f"LA_E_{i}" for i in range(500)]
    assert pieces.label.tolist() == [int(i % 3 > 0) for i in range(500)]
    with pytest.raises(UserError, match=":501: .* LA_E_3, .*line 4"):
        corpora.read_table(write(text + "LA_1 LA_E_3 - - bonafide\n"))
    with pytest.raises(UserError, match=":401: .*found 4"):
        corpora.read_table(write(text.replace("LA_E_400 ", "")))


def test_a_bare_list_of_ids_has_no_labels(write):
    assert corpora.read_protocol(write("LA_E_1\nLA_E_2\n")) == [Trial("LA_E_1"), Trial("LA_E_2")]
    assert corpora.read_protocol(write("a.flac\nb.flac\n")) == [Trial("a"), Trial("b")]
    assert corpora.read_protocol(write("path,speaker\na.flac,s\n")) == [Trial("a", speaker="s")]


@pytest.mark.parametrize(
    "text, words",
    [
        (CTRSVDD + "a b c - A06 spoof\n", [":4:", "bonafide or deepfake", "found spoof"]),
        ("one two three\n", [":1:", "known corpus", "found 3"]),
        ("a,b\n1,2\n", [":1:", "header with path|file", "found a,b"]),
        ("path,file,label\na,a,spoof\n", [":1:", "one of the columns"]),
        ("path,label,label\na,spoof,spoof\n", [":1:", "expected"]),
        ('path,label\n"a,spoof\n', [":2:", "expected"]),
        ("path,label\n", ["expected one trial per line"]),
    ],
)
def test_a_wrong_protocol_names_file_and_line(write, text, words):
    path = write(text)
    with pytest.raises(UserError) as raised:
        corpora.read_protocol(path)
    for word in [str(path), *words]:
        assert word in str(raised.value)


def test_a_corpus_that_is_named_must_fit(write):
    assert len(corpora.read_protocol(write(ASVSPOOF2019), "ASVspoof2019_LA")) == 3
    with pytest.raises(UserError, match=":1: .*6 columns .*CtrSVDD"):
        corpora.read_protocol(write(ASVSPOOF2019), "CtrSVDD")


def test_foreign_text_in_a_message_is_one_short_printable_line(write):
    with pytest.raises(UserError) as raised:
        corpora.read_protocol(write("a b\x1b[31m " + "x" * 5000 + "\n"))
    assert len(str(raised.value)) < 1500 and str(raised.value).isprintable()


def test_subsets_of_asvspoof2021(write):
    table = corpora.read_table(write(SAMPLES["ASVspoof2021_LA"]))
    for name, expected in [("eval", [1, 1, 0]), ("hidden", [0, 0, 1]), ("hidden_track", [0, 0, 1]), ("all", [1, 1, 1])]:
        assert table.subset_mask(name).tolist() == [bool(x) for x in expected]
    with pytest.raises(UserError, match="progress.*eval, hidden"):
        table.subset_mask("progress")
    picked = table.select(table.subset_mask("hidden"))
    assert (picked.utt_id, picked.label.tolist(), words(picked)["codec"]) == (["LA_E_5"], [SPOOF], ["gsm"])
    assert corpora.read_table(write(ASVSPOOF2019)).subset_mask("eval").all()


def test_a_fifo_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for read in (corpora.read_protocol, corpora.read_scores):
        with pytest.raises(UserError, match="regular file"):
            read(tmp_path / "fifo")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.txt.*No such file"):
        corpora.read_protocol(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="expected audio files"):
        corpora.read_protocol(tmp_path)


def test_audio_is_located_and_all_that_is_missing_is_listed(tmp_path):
    for name in ("a.wav", "b.flac", "b.wav", "c.txt", "e.FLAC"):
        (tmp_path / name).touch()
    found = corpora.locate_audio([Trial("b"), Trial("a"), Trial("e")], tmp_path)
    assert [trial.path for trial in found] == [str(tmp_path / name) for name in ("b.flac", "a.wav", "e.FLAC")]
    with pytest.raises(UserError, match="2 of 3 .* c") as raised:
        corpora.locate_audio([Trial("c"), Trial("a"), Trial("d")], tmp_path)
    assert raised.value.details == [f"missing audio: {tmp_path / name}" for name in "cd"]
    with pytest.raises(UserError, match="nowhere"):
        corpora.locate_audio([Trial("a")], tmp_path / "nowhere")
    with pytest.raises(UserError, match="forbidden: ../a"):  # an id cannot lead out of the folder
        corpora.locate_audio([Trial("../a")], tmp_path / "..")


def test_a_folder_as_a_list_of_trials(tmp_path):
    for name in ("2.wav", "10.wav", "meta.csv"):
        (tmp_path / name).touch()
    assert [trial.utt_id for trial in corpora.trials_of_folder(tmp_path)] == ["10", "2"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found none"):
        corpora.trials_of_folder(tmp_path / "empty")


@pytest.mark.parametrize("layout", ["official archive", "published scripts"])
def test_both_layouts_of_asvspoof_are_found(tmp_path, layout):
    if layout == "official archive":
        database, text = None, tmp_path / "LA" / "ASVspoof2019_LA_cm_protocols"
        audio = tmp_path / "LA" / "ASVspoof2019_LA_train" / "flac"
    else:
        database, text = tmp_path / "proto", tmp_path / "proto" / "ASVspoof_LA_cm_protocols"
        audio = tmp_path / "ASVspoof2019_LA_train" / "flac"
    text.mkdir(parents=True)
    audio.mkdir(parents=True)
    with pytest.raises(UserError, match="ASVspoof2019_LA_cm_protocols.*ASVspoof_LA_cm_protocols"):
        corpora.official_files("ASVspoof2019_LA", "train", tmp_path, database)
    protocol = text / "ASVspoof2019.LA.cm.train.trn.txt"
    protocol.touch()
    assert corpora.official_files("ASVspoof2019_LA", "train", tmp_path, database) == (protocol, audio)


# Where the archives and the published scripts have the protocol and the audio of each corpus.
LAYOUTS = {
    "ASVspoof2019_LA": [("LA/ASVspoof2019_LA_cm_protocols/p.txt", "LA/ASVspoof2019_LA_dev/flac/LA_E_2834763.flac")],
    "PartialSpoof": [
        ("database/protocols/PartialSpoof_LA_cm_protocols/p.txt", "database/train/con_wav/CON_T_0000029.wav")
    ],
    "ASVspoof2021_LA": [
        ("keys/LA/CM/trial_metadata.txt", "ASVspoof2021_LA_eval/flac/LA_E_9332881.flac"),
        ("CM/trial_metadata.txt", "ASVspoof2021_LA_eval/flac/LA_E_9332881.flac"),
    ],
    "ASVspoof2021_DF": [("keys/DF/CM/trial_metadata.txt", "ASVspoof2021_DF_eval/flac/DF_E_2000011.flac")],
    "CtrSVDD": [("dev.txt", "dev_set/CtrSVDD_0097_D_0010993.flac")],
    "ASVspoof5": [
        ("ASVspoof5.eval.track_1.tsv", "flac_E_eval/E_0009538969.flac"),
        ("ASVspoof5.eval.track_1.tsv", "eval_full/flac_E_eval/E_0009538969.flac"),
        ("ASVspoof5_protocols/ASVspoof5.eval.track_1.tsv", "ASVspoof5_eval/flac_E_eval/E_0009538969.flac"),
    ],
    "in_the_wild": [("meta.csv", "0.wav"), ("meta.csv", "release_in_the_wild/0.wav")],
    "csv": [("list.csv", "sub/a.wav")],
}


@pytest.mark.parametrize("corpus, protocol, audio", [(c, *places) for c, all_ in LAYOUTS.items() for places in all_])
def test_audio_is_found_around_the_protocol(tmp_path, corpus, protocol, audio):
    text = SAMPLES[corpus]
    (tmp_path / protocol).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / protocol).write_text("\n".join(text.split("\n")[: 2 if corpus in ("in_the_wild", "csv") else 1]))
    with pytest.raises(UserError, match="audio.*/"):
        corpora.read_trials(tmp_path / protocol)
    (tmp_path / audio).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / audio).touch()
    if corpus == "ASVspoof2019_LA":  # the other splits are there, too
        (tmp_path / audio.replace("_dev", "_train")).parent.mkdir(parents=True)
    (trial,) = corpora.read_trials(tmp_path / protocol)
    assert trial.path == str(tmp_path / audio)


def test_an_id_cannot_lead_outside_the_folder(tmp_path, write):
    inside = tmp_path / "audio" / "sub"
    inside.mkdir(parents=True)
    (tmp_path / "secret.wav").touch()
    (inside / "a.wav").touch()
    absolute = f"{tmp_path}/secret"
    assert corpora.locate_audio([Trial("sub/a")], tmp_path / "audio")[0].path == str(inside / "a.wav")
    for utt_id in ("../secret", "sub/../../secret", absolute, f"/{absolute}", "./../secret", "sub/../../audio/sub/a"):
        with pytest.raises(UserError, match="1 of 1 "):
            corpora.locate_audio([Trial(utt_id)], tmp_path / "audio")
        with pytest.raises(UserError, match="not found"):
            corpora.read_trials(write(f"path,label\n{utt_id}.wav,spoof\n", "audio/list.csv"))


@pytest.mark.parametrize(
    "place",
    ["keys/LA/CM/trial_metadata.txt", "LA/CM/trial_metadata.txt", "CM/trial_metadata.txt", "meta.csv", "test.txt"],
)
def test_a_key_is_found_in_a_folder_of_keys(tmp_path, place):
    with pytest.raises(UserError, match="LA/CM/trial_metadata.txt"):
        corpora.find_key(tmp_path, "LA_E_9332881")
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text(SAMPLES["ASVspoof2021_LA"])
    assert corpora.find_key(tmp_path, "LA_E_9332881") == tmp_path / place


def test_of_several_keys_the_one_that_names_the_trial_is_taken(tmp_path):
    for track in ("LA", "DF"):
        (tmp_path / track / "CM").mkdir(parents=True)
        (tmp_path / track / "CM" / "trial_metadata.txt").write_text(SAMPLES[f"ASVspoof2021_{track}"])
    assert corpora.find_key(tmp_path, "DF_E_2000013") == tmp_path / "DF" / "CM" / "trial_metadata.txt"
    with pytest.raises(UserError, match="LA_E_6"):
        corpora.find_key(tmp_path, "LA_E_6")


def test_verification_scores_of_2019_and_2021(tmp_path, write):
    base = tmp_path / "LA"
    (base / "ASVspoof2019_LA_cm_protocols").mkdir(parents=True)
    key = base / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.dev.trl.txt"
    assert corpora.find_asv(key, "ASVspoof2019_LA") is None
    (base / "ASVspoof2019_LA_asv_scores").mkdir()
    scores = base / "ASVspoof2019_LA_asv_scores" / "ASVspoof2019.LA.asv.dev.gi.trl.scores.txt"
    scores.write_text("- target 3.5\n- nontarget -1\nA07 spoof 2\n")
    asv = corpora.read_asv_trials(*corpora.find_asv(key, "ASVspoof2019_LA"))
    assert asv.score.tolist() == [3.5, -1, 2]
    assert asv.kind.tolist() == [corpora.TARGET, corpora.NONTARGET, corpora.ASV_SPOOF]
    assert words(corpora.TrialTable("", "", [], None, asv.columns))["attack"] == ["-", "-", "A07"]

    folder = tmp_path / "keys" / "LA" / "ASV" / "ASVTorch_Kaldi"
    folder.mkdir(parents=True)
    (folder / "score.txt").write_text("s1 t1 0.5\ns1 t1 -0.5\n")
    lines = "s1-alaw t1-alaw alaw ita_tx bonafide nontarget notrim eval\ns1 t1 gsm ita_tx A07 spoof notrim hidden\n"
    (folder.parent / "trial_metadata.txt").write_text(lines)
    found = corpora.find_asv(tmp_path / "keys" / "LA" / "CM" / "trial_metadata.txt", "ASVspoof2021_LA")
    asv = corpora.read_asv_trials(*found)
    assert (asv.score.tolist(), asv.kind.tolist()) == ([0.5, -0.5], [corpora.NONTARGET, corpora.ASV_SPOOF])
    columns = words(corpora.TrialTable("", "", [], None, asv.columns))
    assert (columns["attack"], columns["codec"], columns["subset"]) == (
        ["-", "A07"],
        ["alaw", "gsm"],
        ["eval", "hidden"],
    )
    for text, word in [
        ("- target x\n", "number"),
        ("- friend 1\n", "friend"),
        ("", "one trial per line"),
        ("- target\n", ":1:"),
    ]:
        with pytest.raises(UserError, match=word):
            corpora.read_asv_trials(write(text))
    with pytest.raises(UserError, match=" 2 .* 1"):
        corpora.read_asv_trials(write("s1 t1 0.5\n"), folder.parent / "trial_metadata.txt")


def test_sasv_table(write):
    text = "asv_score,cm_score,sasv_label\n1,2,1.0\n3,4,2\n5,6,0\n"
    table, scores, asv = corpora.read_sasv(write(text))
    assert table.label.tolist() == [BONAFIDE, BONAFIDE, SPOOF]
    assert asv.kind.tolist() == [corpora.TARGET, corpora.NONTARGET, corpora.ASV_SPOOF]
    assert (scores["cm_score"].tolist(), asv.score.tolist()) == ([2, 4, 6], [1, 3, 5])
    for bad in ("", "a,b\n", text + "1,2\n", text + "x,2,0\n", text + "1,2,7\n", "asv_score,cm_score,sasv_label\n"):
        with pytest.raises(UserError, match="expected"):
            corpora.read_sasv(write(bad))


@pytest.mark.parametrize(
    "text",
    [
        "a 1\nb 2.5\n",
        "\n a\t1 \r\n\r\nb  2.5\r\n",
        "a.wav 1\nb.wav 2.5",
        "filename,score\na,1\nb,2.5\n",
        "filename\tcm-score\na\t1\nb\t2.5\n",
        "a A07 spoof 1\nb - bonafide 2.5\n",
    ],
)
def test_every_form_of_score_file(write, text):
    assert corpora.read_scores(write(text)) == {"a": 1.0, "b": 2.5}


def test_ids_with_blanks_have_scores(write):
    assert corpora.read_scores(write("my a 1\nb 2\n")) == {"my a": 1, "b": 2}
    assert corpora.read_scores(write("file,score\nmy a,1\n")) == {"my a": 1}


def test_scores_are_read_without_judging(write):
    names, values, lines, _ = corpora.read_score_columns(write("a 1\n\nb nan\na inf\n"))
    assert (names, lines) == (["a", "b", "a"], [1, 3, 4])
    np.testing.assert_array_equal(values, [1, np.nan, np.inf])


def test_scores_survive_a_round_trip(tmp_path):
    scores = {"b": 0.1, "a": -1.5e-30, "c": 123456.789}
    corpora.write_scores(tmp_path / "new" / "scores.txt", scores)
    assert list(corpora.read_scores(tmp_path / "new" / "scores.txt").items()) == list(scores.items())


@pytest.mark.parametrize(
    "text, words",
    [
        ("a 1\nb\n", [":2:", "found one word: b"]),
        ("a 1\nb x\n", [":2:", "found x"]),
        ("a nan\n", [":1:", "finite", "nan"]),
        ("a inf\n", [":1:", "finite"]),
        ("a 1\nb 2\na 1\n", [":3:", "appended"]),
        ("\n", ["found none"]),
    ],
)
def test_a_wrong_score_file_names_file_and_line(write, text, words):
    path = write(text)
    with pytest.raises(UserError) as raised:
        corpora.read_scores(path)
    for word in [str(path), *words]:
        assert word in str(raised.value)
