"""What a record of a corpus says; the records are in records.py."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Corpus:
    """A corpus; every field has a default, that of an ASVspoof corpus where those agree."""

    # Its text: a trial a line; `columns` in their order, separated by blanks, "-" being one that nothing is read from.
    # open_ended: the last column is any number of words. header: a table instead, whose first line names the columns,
    # in any case; () allows any.
    columns: tuple = ()
    open_ended: bool = False
    header: bool = False
    # Labels, in any case, and the column that they are read from if none is called key or label; "" as spoof: every
    # other word. absent: words that mean "no value" in the other columns, as the one for bona fide does.
    bonafide: str = "bonafide"
    spoof: str = "spoof"
    label_column: str | None = None
    absent: tuple = ()
    # What tells it from corpora with as many columns: {column: regular expression} of its first line; {column: values}
    # of one of its lines at least.
    first_line: dict = field(default_factory=dict)
    some_line: dict = field(default_factory=dict)

    # Its archive. roots: folders that lists and audio may lie in; lists: {split: file name}, in one of list_folders;
    # audio: {split: folders}; keys: where a folder of keys has that of the evaluation set.
    roots: tuple = ("",)
    lists: dict = field(default_factory=dict)
    list_folders: tuple = (".",)
    audio: dict = field(default_factory=dict)
    keys: tuple = ()
    # Labels of segments, where utterances are spoofed in part: places around its lists, {split} being the list's.
    segments: tuple = ()
    # Scores and key of the organisers' speaker verification, a pattern and a place beside the folder of the key;
    # {split} is the split in the key's name.
    asv_scores: str | None = None
    asv_key: str | None = None

    # A corpus without lists, for `python -m corpora`. paths: a regular expression of the path of an audio file, without
    # its ending, from one of its folders on; letter case does not count. Its groups are columns of the list to be made
    # (attack, speaker, language, split); a file is bona fide if the group `bonafide` takes part, else spoofed.
    # layout: examples for people, in the shell's braces. bonafide_from: whose speech it is if all are spoofed.
    paths: str | None = None
    layout: str = ""
    companions: tuple = ()  # names of files that lie beside its audio
    bonafide_from: str = ""

    # Flags of train.py and their values where neither the user nor a recipe says others; those of SPEECH where it says
    # none. recipe_of_models: where the published recipe of a model differs from that.
    recipe: dict = field(default_factory=dict)
    recipe_of_models: dict = field(default_factory=dict)
    train_flag: str | None = None  # that of train.py which names its folder, as in its published command
    drop_last: bool = True  # the last batch of an epoch, if it is smaller, as its published program does

    # eval.py --track: its name there, the samples of a 4 s test, and whether that test or whole utterances are
    # the default.
    track: str | None = None
    test_length: int = 64000
    test_protocol: str = "full"
    test_length_of: dict = field(default_factory=dict)  # where the authors of a back-end score other than elsewhere

    # The report: columns to break down by and, of each, the published order of its values, others being sorted behind;
    # the column whose values are drawn together in the bootstrap; the form of the t-DCF; the function of
    # reports.published that gives the published figures; the module of reports that prints the published text.
    breakdowns: dict = field(default_factory=lambda: {"attack": ()})
    cluster: str = "speaker"
    tdcf: str = "2021"
    published: str = "asvspoof"
    published_report: str | None = None
