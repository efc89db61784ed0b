"""The detector: its configuration, its names and how it is put together."""

import contextlib
import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from back_ends import BACK_ENDS, build_back_end
from common.console import Number, UserError, shown, unfit
from front_ends import AGGREGATIONS, FROM_FILE, FRONT_ENDS, build_aggregation, build_front_end, empty_weights

MODEL_NAMES = [f"{front_end}_{back_end}" for front_end in FRONT_ENDS for back_end in BACK_ENDS]
_PRESETS = dict.fromkeys(name for front_end in FRONT_ENDS.values() for name in front_end.presets)
CHOICES = {
    "model_name": MODEL_NAMES,
    "ssl": [*_PRESETS, FROM_FILE],
    "agg": [*AGGREGATIONS],
    "pool_func": ["mean", "ASTP"],
    "n_output_logits": [1, 2],
    "output": ["linear", "cosine"],
}


@dataclass(frozen=True)
class ModelConfig:
    """All that shapes the network; the fields are named as the flags. A field that is None takes the published value
    of the model's encoder. Raises UserError, naming the flag, for a value that no network has.
    """

    model_name: str  # <front-end>_<back-end>
    ssl: str = None  # the encoder: one of the front-end's presets, or from_file
    agg: str = None  # how hidden states become features; stays None for a back-end that takes them itself
    pool_func: str = "mean"  # pooling over time: mean, or ASTP (attentive statistics)
    dilation: int = None  # of the inner convolutions of Nes2Net
    Nes_ratio: tuple = (8, 8)  # splits of Nes2Net: outer, inner
    SE_ratio: tuple = (1,)  # channels over width of Nes2Net's gates
    n_output_logits: int = None  # 1: one score; 2: spoof, bona fide
    output: str = "linear"  # the last layer: linear, or cosine (of an embedding and a direction each); not a flag
    ssl_config: dict = None  # ssl from_file: the encoder's shape, its fields those of the front-end's class

    def __post_init__(self):
        if self.model_name not in MODEL_NAMES:
            raise UserError(f"--model_name: expected one of {', '.join(MODEL_NAMES)}, found {self.model_name}")
        front_end, back_end = FRONT_ENDS[self.front_end], BACK_ENDS[self.back_end]
        published = dict(front_end.published)
        if "n_output_logits" not in back_end.set_by_front_end:
            published["n_output_logits"] = 2
        if back_end.takes_hidden_states:
            del published["agg"]
            if self.agg is not None:
                raise UserError(f"--agg {self.agg}: {self.back_end} takes all hidden states, it has no aggregation")
        for name, value in published.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, choices in CHOICES.items():
            if (name, getattr(self, name)) != ("agg", None):
                self._check(name, getattr(self, name), tuple(choices))
        self._check("dilation", self.dilation, Number(int, 1, 10_000))
        for name, expected in (("Nes_ratio", Number(int, 2, 1000)), ("SE_ratio", Number(int, 1, 10_000))):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or not values or (name == "Nes_ratio" and len(values) != 2):
                n = "two numbers, outer and inner" if name == "Nes_ratio" else "numbers"
                raise UserError(f"--{name}: expected {n}, found {shown(values)}")
            for value in values:
                self._check(name, value, expected)
            object.__setattr__(self, name, tuple(values))
        if self.ssl not in (*front_end.presets, FROM_FILE):
            others = [name for name, other in FRONT_ENDS.items() if self.ssl in other.presets]
            raise UserError(
                f"--ssl {self.ssl}: is an encoder for {' or '.join(others)}, found --model_name {self.model_name}"
            )
        if (self.ssl == FROM_FILE) != isinstance(self.ssl_config, dict):
            raise UserError(f"--ssl {self.ssl}: needs --ssl_path, a file of pre-trained weights that says its shape")
        if self.ssl == FROM_FILE:
            try:
                front_end.check_fields(self.ssl_config)
            except ValueError as error:
                raise UserError(f"--ssl {self.ssl}: {error}") from error

    @staticmethod
    def _check(name, value, expected):
        if words := unfit(value, expected):
            raise UserError(f"--{name}: expected {words}, found {shown(value)}")

    @property
    def front_end(self):
        return self.model_name.split("_", 1)[0]

    @property
    def back_end(self):
        return self.model_name.split("_", 1)[1]

    def to_dict(self):
        """The configuration as plain data, for a checkpoint or JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }


def add_model_flags(parser, required=True):
    """Add the flags that shape the network. None, the default of all but --model_name, means not given."""
    group = parser.add_argument_group("model")
    flags = {
        "model_name": dict(required=required, help="<front-end>_<back-end>"),
        "ssl": dict(help="encoder; not given: the published one of the front-end, or that of --ssl_path"),
        "agg": dict(
            help="aggregation of the encoder's hidden states; not given: SEA for WavLM, else last; some "
            "back-ends take all hidden states and have none"
        ),
        "pool_func": dict(help="pooling over time; not given: mean"),
        "dilation": dict(
            type=Number(int), help="dilation of Nes2Net's inner convolutions; not given: 1 for WavLM, else 2"
        ),
        "Nes_ratio": dict(type=Number(int), nargs=2, help="splits of Nes2Net, outer and inner; not given: 8 8"),
        "SE_ratio": dict(type=Number(int), nargs="+", help="channels over width of Nes2Net's gates; not given: 1"),
        "n_output_logits": dict(
            type=Number(int), help="outputs; 2: spoof and bona fide; not given: 1 for Nes2Net on WavLM, else 2"
        ),
    }
    for name, options in flags.items():
        group.add_argument(f"--{name}", choices=CHOICES.get(name), **options)


def given_model_flags(args):
    """The model flags that the user gave, {name: value}: what a checkpoint's configuration must agree with."""
    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in ("output", "ssl_config")]
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


class Detector(nn.Module):
    """Front-end, aggregation and back-end: waveforms (B, samples) at 16 kHz to logits (B, n_output_logits).

    With two outputs, column 1 speaks for bona fide.
    """

    def __init__(self, config, empty_front_end=False):
        super().__init__()
        self.config = config
        with empty_weights() if empty_front_end else contextlib.nullcontext():
            self.front_end = build_front_end(config)
        n_hidden_states, channels = self.front_end.n_hidden_states, self.front_end.channels
        least_layers = BACK_ENDS[config.back_end].least_layers
        if n_hidden_states <= least_layers:
            raise UserError(
                f"--model_name {config.model_name}: expected a front-end of at least {least_layers} layers, "
                f"whose hidden states {config.back_end} takes, found {n_hidden_states - 1}"
            )
        self.aggregation = nn.Identity()
        if not BACK_ENDS[config.back_end].takes_hidden_states:
            self.aggregation = build_aggregation(config, n_hidden_states, channels)
        try:
            self.back_end = build_back_end(config, channels, n_hidden_states)
        except ValueError as error:
            raise UserError(f"--{error}") from error

    def forward(self, waveforms, normalized=False):
        """normalized: see front_ends.FrontEnd.forward."""
        states = self.front_end(waveforms, normalized, raw_last=self.back_end.raw_last)
        logits = self.back_end(self.aggregation(states))
        return logits.flip(-1) if self.back_end.bonafide_column == 0 else logits

    def score(self, waveforms, normalized=False):
        """Scores (B,), higher is more bona fide, of waveforms (B, samples)."""
        return self.scores_of(self(waveforms, normalized))

    def scores_of(self, logits):
        """Scores (B,) of logits (B, n_output_logits): the bona fide logit, or what the back-end's authors score by."""
        return self.back_end.score(logits) if self.config.n_output_logits == 2 else logits[:, 0]


def build_detector(config, empty=None):
    """Build a Detector with random weights. Raises UserError where the parts do not fit each other.

    empty: "all" or "front_end", what is left as it comes from memory, because its weights are about to be loaded.
    """
    with empty_weights() if empty == "all" else contextlib.nullcontext():
        return Detector(config, empty_front_end=empty is not None)


def use_utterance_batch_norm(detector):
    """Let every batch normalisation use the statistics of what it is fed, not those of training.

    The published In-the-Wild scorer works so, by never leaving training mode; with one utterance a batch. Dropout
    stays off. Source: the published main.py.
    """
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.momentum = 0.0  # the stored statistics stay


def choose_device(gpu_id=0):
    """The CUDA device of that number, or the CPU where there is none. Raises UserError for a number too high."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if not 0 <= gpu_id < torch.cuda.device_count():
        raise UserError(f"--gpu_id: expected one of 0 to {torch.cuda.device_count() - 1}, found {gpu_id}")
    return torch.device(f"cuda:{gpu_id}")


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())
