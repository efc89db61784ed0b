"""The fields of a corpus's record; the records are in records.py."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Corpus:
    """Record of a corpus. All fields have defaults: those of the ASVspoof corpora if these agree."""

    # Form of its lists: one trial per line; `columns` in order, separated by blanks, "-" for an unused one.
    # open_ended: the last column has any number of words. header: a table instead, whose first line names the columns,
    # in any case; () allows any columns.
    columns: tuple = ()
    open_ended: bool = False
    header: bool = False
    # Labels, in any case; spoof "": every other word. label_column: their column if none is called key or label.
    # absent: words that mean "no value" in the other columns, in addition to the word for bona fide.
    bonafide: str = "bonafide"
    spoof: str = "spoof"
    label_column: str | None = None
    absent: tuple = ()
    # Distinguish it from corpora with the same number of columns. first_line: {column: regular expression}; some_line:
    # {column: values}, which at least one line has.
    first_line: dict = field(default_factory=dict)
    some_line: dict = field(default_factory=dict)

    # Its archive. roots: folders that may contain lists and audio; lists: {split: file name}, in one of list_folders;
    # audio: {split: folders}; keys: places of the evaluation set's key in a folder of keys.
    roots: tuple = ("",)
    lists: dict = field(default_factory=dict)
    list_folders: tuple = (".",)
    audio: dict = field(default_factory=dict)
    keys: tuple = ()
    # Segment labels of partially spoofed corpora: places around the lists; {split} is the split of the list.
    segments: tuple = ()
    # Scores (a pattern) and key of the organisers' speaker verification, relative to the parent of the key's folder;
    # {split} is the split in the key's name.
    asv_scores: str | None = None
    asv_key: str | None = None

    # A corpus without lists, for `python -m corpora`. paths: a regular expression for the path of an audio file, from
    # one of the corpus's folders on, without extension, in any letter case. Its groups are columns of the new list
    # (attack, speaker, language, split); a file is bona fide if the group `bonafide` matches, else spoofed.
    # layout: examples for messages, with the shell's braces. bonafide_from: source of bona fide speech if the corpus
    # has only spoofed speech.
    paths: str | None = None
    layout: str = ""
    companions: tuple = ()  # names of other files among its audio
    bonafide_from: str = ""

    # Values of train.py's flags if neither the user nor --recipe sets them; missing flags are those of SPEECH.
    # recipe_of_models: {model: values that differ in its published recipe}.
    recipe: dict = field(default_factory=dict)
    recipe_of_models: dict = field(default_factory=dict)
    train_flag: str | None = None  # flag of train.py for its folder, as in its published command
    drop_last: bool = True  # drop the last batch of an epoch if it is smaller, as the published program does

    # eval.py --track: the name of its track, the samples of the 4 s test, and the default test ("4sec" or "full").
    track: str | None = None
    test_length: int = 64000
    test_protocol: str = "full"
    test_length_of: dict = field(default_factory=dict)  # {back-end: test length}, if its authors score differently

    # The report. breakdowns: {column: published order of its values}, other values are sorted after these; cluster:
    # column whose values the bootstrap draws as clusters; tdcf: form of the t-DCF; published: entry of
    # reports.published.PROGRAMS; published_report: module of reports that prints the published text.
    breakdowns: dict = field(default_factory=lambda: {"attack": ()})
    cluster: str = "speaker"
    tdcf: str = "2021"
    published: str = "asvspoof"
    published_report: str | None = None
