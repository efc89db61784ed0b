import pytest

import protocols
from console import UserError
from protocols import BONAFIDE, SPOOF, Trial

ASVSPOOF2019 = "LA_0039 LA_E_2834763 - A11 spoof\nLA_0014 LA_E_8877452 - - bonafide\n"
CTRSVDD = (
    "jvsmusic CtrSVDD_0097 CtrSVDD_0097_D_0010993 - A06 deepfake\n"
    "kiritan CtrSVDD_0001 CtrSVDD_0001_D_0000001 - - bonafide\n"
)


@pytest.fixture
def write(tmp_path):
    def call(text, name="protocol.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return call


def test_asvspoof2019(write):
    assert protocols.read_protocol(write(ASVSPOOF2019)) == [
        Trial("LA_E_2834763", SPOOF, "A11", "LA_0039"),
        Trial("LA_E_8877452", BONAFIDE, "-", "LA_0014"),
    ]


def test_ctrsvdd(write):
    assert protocols.read_protocol(write(CTRSVDD)) == [
        Trial("CtrSVDD_0097_D_0010993", SPOOF, "A06", "CtrSVDD_0097", "jvsmusic"),
        Trial("CtrSVDD_0001_D_0000001", BONAFIDE, "-", "CtrSVDD_0001", "kiritan"),
    ]


def test_a_bare_list_of_ids_has_no_labels(write):
    assert protocols.read_protocol(write("LA_E_1\nLA_E_2\n")) == [Trial("LA_E_1"), Trial("LA_E_2")]


def test_line_ends_tabs_and_blank_lines_are_harmless(write):
    messy = ASVSPOOF2019.replace("\n", "  \r\n\r\n").replace(" ", "\t")
    assert protocols.read_protocol(write(messy)) == protocols.read_protocol(write(ASVSPOOF2019, "clean.txt"))


@pytest.mark.parametrize(
    "text, words",
    [
        ("", ["expected a trial a line"]),
        ("\n \n", ["expected a trial a line"]),
        (ASVSPOOF2019 + "LA_0039 LA_E_3 - A11\n", [":3:", "5 columns", "found 4"]),
        (ASVSPOOF2019 + "LA_0039 LA_E_3 - A11 fake\n", [":3:", "bonafide or spoof", "found fake"]),
        (ASVSPOOF2019 + "\nLA_0039 LA_E_2834763 - A11 spoof\n", [":4:", "LA_E_2834763", "line 1"]),
        (CTRSVDD + "a b c - A06 spoof\n", [":3:", "bonafide or deepfake", "found spoof"]),
        ("one two three\n", [":1:", "known corpus", "found 3"]),
        (b"\xff\xfe\x00junk", ["UTF-8"]),
    ],
)
def test_a_wrong_protocol_names_file_and_line(write, text, words):
    path = write(text)
    with pytest.raises(UserError) as raised:
        protocols.read_protocol(path)
    for word in [str(path), *words]:
        assert word in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.txt.*No such file"):
        protocols.read_protocol(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="expected audio files"):
        protocols.read_protocol(tmp_path)


def test_audio_is_located_and_all_that_is_missing_is_listed(tmp_path):
    for name in ("a.wav", "b.flac", "b.wav", "c.txt", "e.FLAC"):
        (tmp_path / name).touch()
    found = protocols.locate_audio([Trial("b"), Trial("a"), Trial("e")], tmp_path)
    assert [trial.path for trial in found] == [str(tmp_path / name) for name in ("b.flac", "a.wav", "e.FLAC")]
    with pytest.raises(UserError, match="2 of 3 trials.* first c") as raised:
        protocols.locate_audio([Trial("c"), Trial("a"), Trial("d")], tmp_path)
    assert raised.value.details == [f"missing audio: {tmp_path / name}" for name in "cd"]
    with pytest.raises(UserError, match="nowhere"):
        protocols.locate_audio([Trial("a")], tmp_path / "nowhere")
    with pytest.raises(UserError, match="first ../a"):  # an id cannot lead out of the folder
        protocols.locate_audio([Trial("../a")], tmp_path / "..")


def test_a_folder_as_a_list_of_trials(tmp_path):
    for name in ("2.wav", "10.wav", "meta.csv"):
        (tmp_path / name).touch()
    assert [trial.utt_id for trial in protocols.trials_of_folder(tmp_path)] == ["10", "2"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found none"):
        protocols.trials_of_folder(tmp_path / "empty")


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
        protocols.asvspoof2019_files(tmp_path, database, "train")
    protocol = text / "ASVspoof2019.LA.cm.train.trn.txt"
    protocol.touch()
    assert protocols.asvspoof2019_files(tmp_path, database, "train") == (protocol, audio)


def test_scores_survive_a_round_trip(tmp_path):
    scores = {"b": 0.1, "a": -1.5e-30, "c": 123456.789}
    protocols.write_scores(tmp_path / "new" / "scores.txt", scores)
    assert list(protocols.read_scores(tmp_path / "new" / "scores.txt").items()) == list(scores.items())


@pytest.mark.parametrize(
    "text, words",
    [
        ("a 1\nb\n", [":2:", "found 1 columns"]),
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
        protocols.read_scores(path)
    for word in [str(path), *words]:
        assert word in str(raised.value)
