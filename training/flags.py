"""Flags of a training, first part: its data, how it trains, and the encoder. The second part is in run_flags.py.

Each is a field of TrainingConfig, see options.option; config.py checks what they say together.
"""

from dataclasses import dataclass
from functools import partial

import checkpoints
from common.console import ABOVE_0, AT_LEAST_0, AT_LEAST_1, SEED, Number
from common.workers import share_of_cores
from corpora import BONAFIDE_HELP, CORPORA
from training.balance import LEVELS as BALANCE_LEVELS
from training.losses import LOSSES, losses_for
from training.options import option
from training.schedules import SCHEDULES

SHARE = Number(float, 0, 1)
_data = partial(option, group="data", runtime=True)  # a run may move with its data, whose digests are compared
_training = partial(option, group="training")
_encoder = partial(option, group="encoder")


@dataclass(frozen=True)
class TrainingFlags:
    """Flags of the groups data, training and encoder."""

    base_dir: str = _data(None, "CtrSVDD: folder of train_set/, dev_set/, train.txt, dev.txt")
    database_path: str = _data(None, "ASVspoof 2019 LA: folder of ASVspoof2019_LA_train/flac and ..._dev/flac")
    protocols_path: str = _data(None, "folder of the ASVspoof protocols; not given: --database_path")
    train_protocol: tuple = _data(
        None,
        "key of any corpus, or a table with columns path and label; several times: the corpora are joined",
        action="append",
        metavar="KEY",
    )
    dev_protocol: tuple = _data(None, "--train_protocol: the same for validation", action="append", metavar="KEY")
    train_audio_dir: tuple = _data(
        None,
        "audio of each --train_protocol, in their order; not given: looked for around the protocol",
        action="append",
        metavar="DIR",
    )
    dev_audio_dir: tuple = _data(
        None,
        "audio of each --dev_protocol, in their order; not given: looked for around the protocol",
        action="append",
        metavar="DIR",
    )
    train_segments: tuple = _data(
        None,
        "--labels frames, both: where the utterances of each --train_protocol are spoofed: RTTM, a folder of .vad "
        "files, a list with spans, or PartialSpoof's _seglab_ .npy; not given: the list itself, if it has spans",
        action="append",
        metavar="FILE",
    )
    dev_segments: tuple = _data(None, "the same for each --dev_protocol", action="append", metavar="FILE")
    bonafide: str = option(None, BONAFIDE_HELP, group="data", metavar="WORD")
    corpus: str = option(
        None,
        "what the data are of, which says their layout and recipe; not given: CtrSVDD for --base_dir, ASVspoof 2019 LA "
        "for --database_path, or else the one that is recognised in --train_protocol",
        group="data",
        choices=CORPORA,
    )
    track: str = _data(
        "LA",
        "what the detector is for; both train on 2019 LA",
        choices=tuple(record.track for record in CORPORA.values() if record.track and record.lists),
    )
    balance: tuple = option(
        None,
        "draw equally often from each corpus (--train_protocol), within it from each class, and within that from each "
        "attack: one of these or several",
        group="data",
        choices=BALANCE_LEVELS,
        nargs="+",
    )
    epoch_size: int = option(
        None, "trials per epoch; not given: as many as the training set has", group="data", kind=AT_LEAST_1, metavar="N"
    )
    num_workers: int = _data(
        share_of_cores(12),
        "processes that read audio, for each process that trains (%(default)s: its share of the cores, up to 12)",
        kind=AT_LEAST_0,
    )
    check_audio: bool = _data(False, "decode every file before training starts")
    skip_bad_audio: int = _data(
        0,
        "go on without at most N files that cannot be read, each logged; the next of the list takes its place "
        "(%(default)s: stop at the first)",
        kind=AT_LEAST_0,
        metavar="N",
    )

    recipe: str = _training(
        None, "a system trained as its authors did: sets the flags; list prints all recipes", runtime=True
    )
    epochs: int = _training(None, "passes over the training set", kind=AT_LEAST_1, aliases=("--num_epochs",))
    batch_size: int = _training(None, "trials of a step, of all processes together", kind=AT_LEAST_1)
    labels: str = _training(
        "utterance",
        "what is trained and scored: whole utterances; frames, which is units of --label_step; or both, their losses "
        "added. For corpora of partially spoofed speech and back-ends that score frames (Nes2Net, MHFA, Linear)",
        choices=("utterance", "frames", "both"),
    )
    label_step: float = _training(
        None, "--labels frames, both: seconds of a unit that has a label (0.16)", kind=Number(float, 0.001, 60)
    )
    utterance_score: str = _training(
        None,
        "--labels frames, both: an utterance is scored by the back-end's pooling, or by the mean of the worst tenth of "
        "its units (frames: worst; both: pooled)",
        choices=("pooled", "worst"),
    )
    optimizer: str = _training(None, choices=("Adam", "AdamW"))
    lr: float = _training(None, "highest learning rate", kind=Number(float, 0))
    weight_decay: float = _training(1e-4, kind=Number(float, 0))
    beta2: float = _training(0.999, "decay of Adam's second moments", kind=Number(float, 0, 0.99999))
    schedule: str = _training(
        None,
        "cosine: per epoch, down and up again; cosine_decay, exponential: per step, once from --lr to --min_lr; step: "
        "times --gamma every --T_max epochs; warmup_...: up in --warmup_epochs, then times --gamma an epoch, or half a "
        "cosine to 0, or, per step, to --min_lr (warmup_cosine_decay)",
        choices=tuple(SCHEDULES),
    )
    T_max: int = _training(5, "cosine: epochs from highest to lowest rate", kind=AT_LEAST_1)
    min_lr: float = _training(1e-9, "cosine, ..._decay, exponential: lowest rate", kind=Number(float, 0))
    gamma: float = _training(0.5, "step, warmup_exponential: see there", kind=ABOVE_0)
    warmup_epochs: int = _training(3, "warmup_...: see there", kind=AT_LEAST_1)
    loss: str = _training(
        None,
        f"one output: {', '.join(losses_for(1))}; two: {', '.join(losses_for(2))}; WCE is weighted_CCE; "
        "not given: the first of those",
        choices=(*LOSSES, "WCE"),
    )
    teacher: str = _training(
        None,
        "--loss OCKD: the trained detector that a student learns to agree with; in the manner of --model_path",
        runtime=True,
    )
    members: tuple = _training(
        None,
        "--loss gated_ensemble: two or more trained detectors, whose scores are weighed per utterance",
        nargs="+",
        runtime=True,
    )
    class_weights: tuple = _training((0.1, 0.9), "weighted_...: spoof, bona fide", kind=ABOVE_0, nargs=2)
    crop: int = _training(None, "samples of a training utterance; shorter ones are repeated", kind=AT_LEAST_1)
    crop_place: str = _training(
        None,
        "where the crop is taken; random repeats a shorter utterance past --crop and cuts anywhere, random_if_longer "
        "repeats it from its start",
        choices=("first", "random", "random_if_longer"),
    )
    dynamic_crop: tuple = _training(
        None,
        "samples, at least and at most, of a training utterance: every batch draws a length of its own, and --crop is "
        "that of validation; not given: --crop",
        kind=AT_LEAST_1,
        nargs=2,
    )
    drop_last: bool = _training(None, "leave out the last, smaller batch of an epoch", flag=False)
    ssl_path: str = _training(
        None,
        "pre-trained weights of the encoder: a fairseq or WavLM file, a Hugging Face folder, or a detector, whose "
        f"encoder alone is taken; from Hugging Face {checkpoints.FORM}, or OWNER/NAME, whose folder is taken; not "
        "given: its published file name in this folder; none: start from random weights",
        runtime=True,
    )
    model_path: str = _training(
        None,
        "fine-tune a detector: start from the weights of this checkpoint, back-end included; model flags must agree "
        f"with it; or {checkpoints.FORM}. --ssl_path beside it says the encoder's dropouts, no weights",
        runtime=True,
    )
    SSL_freeze_epoch: int = _training(
        -1, "epochs in which the encoder is not trained (%(default)s: none)", kind=Number(int, -1)
    )
    seed: int = _training(None, "of weights, order, crops and augmentation", kind=SEED)
    gpu_id: int = _training(0, "CUDA device, where there is one", kind=AT_LEAST_0, runtime=True)
    debug: bool = _training(False, "21 batches an epoch only")

    dropout: float = _encoder(None, "of what attention and feed-forward parts add", kind=SHARE)
    attention_dropout: float = _encoder(None, "of the weights of attention", kind=SHARE)
    activation_dropout: float = _encoder(None, "within feed-forward parts", kind=SHARE)
    dropout_input: float = _encoder(None, "of the features that the convolutions give", kind=SHARE)
    encoder_layerdrop: float = _encoder(None, "probability that a step leaves out a layer", kind=SHARE)
    feature_grad_mult: float = _encoder(
        None,
        "factor on the gradient of the convolutions; 0: they are neither trained nor decayed",
        kind=Number(float, 0, 1000),
    )
