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
_encoder = partial(option, group="encoder", rare=True)


@dataclass(frozen=True)
class TrainingFlags:
    """Flags of the groups data, training and encoder."""

    base_dir: str = _data(
        None, "CtrSVDD corpus\nthe folder of train_set/, dev_set/, train.txt and dev.txt", metavar="DIR"
    )
    database_path: str = _data(
        None,
        "ASVspoof 2019 LA corpus\nthe folder of ASVspoof2019_LA_train/flac and ASVspoof2019_LA_dev/flac",
        metavar="DIR",
    )
    protocols_path: str = _data(None, "its protocols (--database_path)", metavar="DIR")
    train_protocol: tuple = _data(
        None,
        "trial list of any corpus; may be repeated\nthe corpora are joined; a corpus's key, or a table with the "
        "columns path and label",
        action="append",
        metavar="KEY",
    )
    dev_protocol: tuple = _data(None, "the same for validation", action="append", metavar="KEY")
    train_audio_dir: tuple = _data(
        None,
        "audio of each --train_protocol\nin the same order; default: searched for near the protocol",
        action="append",
        metavar="DIR",
    )
    dev_audio_dir: tuple = _data(
        None,
        "audio of each --dev_protocol\nin the same order; default: searched for near the protocol",
        action="append",
        metavar="DIR",
    )
    train_segments: tuple = _data(
        None,
        "--labels frames, both: spoofed segments of each --train_protocol\nRTTM, a folder of .vad files, a list with "
        "spans, or PartialSpoof's _seglab_ .npy; default: the list itself, if it has spans",
        action="append",
        metavar="FILE",
        rare=True,
    )
    dev_segments: tuple = _data(None, "the same for each --dev_protocol", action="append", metavar="FILE", rare=True)
    bonafide: str = option(None, BONAFIDE_HELP, group="data", metavar="WORD", rare=True)
    corpus: str = option(
        None,
        "corpus of the data, which sets their layout and recipe\ndefault: CtrSVDD for --base_dir, ASVspoof 2019 LA for "
        "--database_path, or else the corpus recognised in --train_protocol",
        group="data",
        choices=CORPORA,
        rare=True,
    )
    track: str = _data(
        "LA",
        "evaluation track; the training data are those of 2019 LA for both",
        choices=tuple(record.track for record in CORPORA.values() if record.track and record.lists),
        rare=True,
    )
    balance: tuple = option(
        None,
        "balance over corpus, class, attack: one or several\neach is drawn equally often; corpora are those of "
        "--train_protocol; nested: classes within a corpus, attacks within a class",
        group="data",
        choices=BALANCE_LEVELS,
        metavar="LEVEL",
        nargs="+",
    )
    epoch_size: int = option(
        None, "trials per epoch (the size of the training set)", group="data", kind=AT_LEAST_1, metavar="N", rare=True
    )
    num_workers: int = _data(
        share_of_cores(12),
        "processes that read audio\nper training process; default: its share of the cores, up to 12",
        kind=AT_LEAST_0,
        metavar="N",
    )
    check_audio: bool = _data(False, "decode every file before training starts", rare=True)
    skip_bad_audio: int = _data(
        0,
        "skip up to N unreadable files\neach is logged and replaced by the next trial; 0: stop at the first",
        kind=AT_LEAST_0,
        metavar="N",
        rare=True,
    )

    recipe: str = _training(
        None, "train a system as its authors did\nsets the flags; list prints all recipes", runtime=True, metavar="NAME"
    )
    epochs: int = _training(None, "passes over the training set", kind=AT_LEAST_1, aliases=("--num_epochs",))
    batch_size: int = _training(None, "trials per step, over all processes", kind=AT_LEAST_1, metavar="N")
    labels: str = _training(
        "utterance",
        "labels to train on and scores to give: utterance, frames or both\nframes: units of --label_step; both: the "
        "sum of the two losses; for partially spoofed speech and back-ends that score frames (Nes2Net, MHFA, Linear)",
        choices=("utterance", "frames", "both"),
        rare=True,
    )
    label_step: float = _training(
        None, "--labels frames, both: duration of a labelled unit [s] (0.16)", kind=Number(float, 0.001, 60), rare=True
    )
    utterance_score: str = _training(
        None,
        "--labels frames, both: score of an utterance\npooled: from the back-end's pooling; worst: mean of the worst "
        "tenth of its units; default: worst for frames, pooled for both",
        choices=("pooled", "worst"),
        rare=True,
    )
    optimizer: str = _training(None, "optimizer", choices=("Adam", "AdamW"), rare=True)
    lr: float = _training(None, "peak learning rate", kind=Number(float, 0))
    weight_decay: float = _training(1e-4, "weight decay", kind=Number(float, 0), rare=True)
    beta2: float = _training(0.999, "decay of Adam's second moments", kind=Number(float, 0, 0.99999), rare=True)
    schedule: str = _training(
        None,
        "learning-rate schedule, such as constant or cosine\ncosine: down and up again, --T_max epochs each; "
        "cosine_decay, exponential: once from --lr to --min_lr, per step; step: times --gamma every --T_max epochs; "
        "warmup_...: linear warm-up over --warmup_epochs, then times --gamma per epoch (exponential), half a cosine to "
        "0 (cosine), or to --min_lr per step (cosine_decay)",
        choices=tuple(SCHEDULES),
    )
    T_max: int = _training(
        5, "cosine: epochs from the highest to the lowest rate; step: epochs per step", kind=AT_LEAST_1, rare=True
    )
    min_lr: float = _training(1e-9, "cosine, ..._decay, exponential: lowest rate", kind=Number(float, 0), rare=True)
    gamma: float = _training(0.5, "step, warmup_exponential: factor on the rate", kind=ABOVE_0, rare=True)
    warmup_epochs: int = _training(3, "warmup_...: epochs of warm-up", kind=AT_LEAST_1, rare=True)
    loss: str = _training(
        None,
        "loss function, such as weighted_CCE or OC_softmax\n"
        f"one output: {', '.join(losses_for(1))}; two: {', '.join(losses_for(2))}; WCE is weighted_CCE; "
        "default: the first of those",
        choices=(*LOSSES, "WCE"),
    )
    teacher: str = _training(
        None,
        "--loss OCKD: trained detector that teaches the student\na file or address, as for --model_path",
        runtime=True,
        rare=True,
    )
    members: tuple = _training(
        None,
        "--loss gated_ensemble: two or more trained detectors, whose scores are weighted per utterance",
        nargs="+",
        runtime=True,
        rare=True,
    )
    class_weights: tuple = _training(
        (0.1, 0.9), "weighted_...: weights of spoof and bona fide", kind=ABOVE_0, nargs=2, rare=True
    )
    crop: int = _training(
        None, "length of training utterances [samples]\nshorter ones are repeated", kind=AT_LEAST_1, metavar="N"
    )
    crop_place: str = _training(
        None,
        "position of the crop\nrandom: repeat a shorter utterance beyond --crop and cut anywhere; random_if_longer: "
        "repeat it from its start",
        choices=("first", "random", "random_if_longer"),
        rare=True,
    )
    dynamic_crop: tuple = _training(
        None,
        "draw the length of each batch between these two [samples]\n--crop is then the length in validation; default: "
        "--crop for all",
        kind=AT_LEAST_1,
        nargs=2,
        rare=True,
    )
    drop_last: bool = _training(None, "leave out the last, smaller batch of an epoch", flag=False)
    ssl_path: str = _training(
        None,
        "pre-trained encoder: file, folder or OWNER/NAME\na fairseq or WavLM file, a Hugging Face folder, or a "
        f"detector, of which only the encoder is used; from Hugging Face {checkpoints.FORM}, or OWNER/NAME for the "
        "whole folder; none: random weights; default: its published file name in the current folder",
        runtime=True,
        metavar="FILE",
    )
    model_path: str = _training(
        None,
        "fine-tune the detector in this checkpoint\nstart from all of its weights, including the back-end; model flags "
        f"must agree with it; or {checkpoints.FORM}; --ssl_path then only sets the encoder's dropout rates",
        runtime=True,
        metavar="FILE",
    )
    SSL_freeze_epoch: int = _training(
        -1, "epochs with a frozen encoder (%(default)s: none)", kind=Number(int, -1), rare=True
    )
    seed: int = _training(None, "seed of weights, order, crops and augmentation", kind=SEED, metavar="N")
    gpu_id: int = _training(0, "CUDA device, if there is one", kind=AT_LEAST_0, metavar="N", runtime=True, rare=True)
    debug: bool = _training(False, "train on 21 batches per epoch only", rare=True)

    dropout: float = _encoder(None, "dropout after attention and feed-forward blocks", kind=SHARE)
    attention_dropout: float = _encoder(None, "dropout on the attention weights", kind=SHARE)
    activation_dropout: float = _encoder(None, "dropout inside feed-forward blocks", kind=SHARE)
    dropout_input: float = _encoder(None, "dropout on the features of the convolutions", kind=SHARE)
    encoder_layerdrop: float = _encoder(None, "probability of skipping a layer in a step (LayerDrop)", kind=SHARE)
    feature_grad_mult: float = _encoder(
        None,
        "factor on the gradient of the convolutions; 0: neither trained nor decayed",
        kind=Number(float, 0, 1000),
    )
