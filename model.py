"""The detector: its configuration, its names and how it is put together."""

import argparse
import contextlib
import dataclasses
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from back_ends import BACK_ENDS, build_back_end
from common.console import Number, UserError, shown, unfit, warn
from common.flags import CommandParser, did_you_mean
from common.values import fitted, key_value, options_text
from front_ends import AGGREGATIONS, FROM_FILE, FRONT_ENDS, build_aggregation, build_front_end, empty_weights, n_units
from front_ends.lora import has_adapters, is_adapter

_PRESETS = dict.fromkeys(name for front_end in FRONT_ENDS.values() for name in front_end.presets)
CHOICES = {
    "ssl": [*_PRESETS, FROM_FILE],
    "agg": [*AGGREGATIONS],
    "n_output_logits": [1, 2],
    "output": ["linear", "cosine", "prototypes", "agreement", "mixture"],
    "utterance": ["pooled", "worst"],
}
# Options of a back-end that have a flag and a field of their own, and what the published programs, which took these
# flags beside any back-end, set them to.
OPTION_FLAGS = {"pool_func": ["mean"], "dilation": [1, 2], "Nes_ratio": [[8, 8]], "SE_ratio": [[1]]}


# Fields of ModelConfig that are not flags.
NO_FLAGS = ("output", "teacher", "members", "ssl_config", "unit", "utterance")
MODEL_NAME = f"one of {', '.join(FRONT_ENDS)}, then _, then one of {', '.join(BACK_ENDS)}"


def model_names() -> list[str]:
    return [f"{front_end}_{back_end}" for front_end in FRONT_ENDS for back_end in BACK_ENDS]


@dataclass(frozen=True)
class ModelConfig:
    """All that shapes the network; the fields are named as the flags. A field that is None takes the published value
    of the model's encoder, or the default of the back-end; of an option that the back-end does not have it stays None.
    Raises UserError, naming the flag, for a value that no network has.
    """

    model_name: str  # <front-end>_<back-end>
    ssl: str = None  # the encoder: one of the front-end's presets, or from_file
    agg: str = None  # how hidden states become features; stays None for a back-end that takes them itself
    pool_func: str = None  # Nes2Net's pooling over time: mean, or ASTP (attentive statistics)
    dilation: int = None  # of Nes2Net's inner convolutions
    Nes_ratio: tuple = None  # splits of Nes2Net: outer, inner
    SE_ratio: tuple = None  # channels over width of Nes2Net's gates
    n_output_logits: int = None  # 1: one score; 2: spoof, bona fide
    # Seconds of a unit, if it scores the units of an utterance as well, see Detector.forward; and what utterances are
    # scored by, the back-end's pooling or the worst of their units. Not flags: training's --labels says them.
    unit: float = None
    utterance: str = "pooled"
    # What the outputs are, which the loss says, not a flag: of a linear layer; cosine: of an embedding and a direction
    # each; prototypes: see back_ends.base.Prototypes; agreement: of hidden states with those of a teacher; mixture: the
    # mean of the members' scores, weighted by the softmax of the back-end's outputs.
    output: str = "linear"
    teacher: dict = None  # output agreement: the configuration of the teacher, a detector of the same architecture
    members: list = None  # output mixture: the configurations of the detectors whose scores are weighed, two or more
    ssl_config: dict = None  # ssl from_file: the encoder's shape, its fields those of the front-end's class
    # The back-end's options, see BackEnd.options: any of them when given; then all, but for those with a field above.
    back_end_options: dict = None

    def __post_init__(self):
        if self.model_name not in model_names():
            near = did_you_mean(self.model_name, model_names())
            raise UserError(f"--model_name: expected {MODEL_NAME}, found {shown(self.model_name)}{near}")
        front_end, back_end = FRONT_ENDS[self.front_end], BACK_ENDS[self.back_end]
        self._set_options(back_end, front_end.published)
        names = {"ssl", "agg", *back_end.set_by_front_end}
        defaults = {"n_output_logits": 2} | {n: value for n, value in front_end.published.items() if n in names}
        if back_end.takes_hidden_states:
            del defaults["agg"]
            if self.agg is not None:
                raise UserError(f"--agg {self.agg}: {self.back_end} takes all hidden states, it has no aggregation")
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, choices in CHOICES.items():
            if (name, getattr(self, name)) != ("agg", None):
                self._check(name, getattr(self, name), tuple(choices))
        if self.ssl not in (*front_end.presets, FROM_FILE):
            others = [name for name, other in FRONT_ENDS.items() if self.ssl in other.presets]
            raise UserError(
                f"--ssl {self.ssl}: is an encoder for {' or '.join(others)}, found --model_name {self.model_name}"
            )
        if self.unit is not None:
            self._check("unit", self.unit, Number(float, 0.001, 60))
        if (self.ssl == FROM_FILE) != isinstance(self.ssl_config, dict):
            raise UserError(f"--ssl {self.ssl}: needs --ssl_path, a file of pre-trained weights that says its shape")
        if self.ssl == FROM_FILE:
            try:
                front_end.check_fields(self.ssl_config)
            except ValueError as error:
                raise UserError(f"--ssl {self.ssl}: {error}") from error
            # Older configurations held what acts in training alone too, by which a preset's shape was not recognised.
            preset = front_end.preset_of(self.ssl_config)
            object.__setattr__(self, "ssl", preset or FROM_FILE)
            object.__setattr__(self, "ssl_config", None if preset else front_end.shape_of(self.ssl_config))
        if self.output == "agreement" or self.teacher is not None:
            self._check_teacher()
        if self.output == "mixture" or self.members is not None:
            self._check_members()

    def _set_options(self, back_end, published):
        """Check and complete the back-end's options. published: what the front-end's authors used."""
        given = {name: getattr(self, name) for name in OPTION_FLAGS if getattr(self, name) is not None}
        if not isinstance(self.back_end_options, dict | None):
            raise UserError(f"--back_end_options: expected values by name, found {shown(self.back_end_options)}")
        for name, value in (self.back_end_options or {}).items():
            if name in given:
                raise UserError(f"--{name}: expected once, found it in --back_end_options as well")
            given[name] = value
        given = {name: option_value(self.back_end, name, value) for name, value in given.items()}
        options = {name: default for name, (default, _) in back_end.options().items()}
        by_front_end = options.keys() & back_end.set_by_front_end & published.keys()
        options |= {name: published[name] for name in by_front_end} | given
        for name in OPTION_FLAGS:
            object.__setattr__(self, name, options.pop(name, None))
        object.__setattr__(self, "back_end_options", options)

    def _check_teacher(self):
        """Complete the configuration of the teacher. Raises UserError if agreement with it is not defined."""
        expected = "a detector of the same architecture, whose hidden states are compared"
        teacher = self.teacher
        if (
            not isinstance(teacher, dict)
            or "model_name" not in teacher
            or teacher.keys() - (self.__dataclass_fields__.keys() - {"teacher"})
        ):
            raise UserError(f"--teacher: expected {expected}, found {shown(teacher)}")
        teacher = ModelConfig.from_dict(teacher).to_dict()
        needed, found = {**teacher, "n_output_logits": 1, "output": "agreement"}, self.to_dict()
        for name in sorted(needed.keys() | found.keys() - {"teacher"}):
            if found.get(name) != needed.get(name):
                words = f"{shown(needed.get(name))}, which an agreement with that teacher needs"
                raise UserError(f"--{name}: expected {words}, found {shown(found.get(name))}")
        object.__setattr__(self, "teacher", teacher)

    def _check_members(self):
        """Complete the configurations of an ensemble's members. Raises UserError if they are none."""
        members = self.members
        if not isinstance(members, list | tuple) or len(members) < 2:
            raise UserError(f"--members: expected two or more trained detectors, found {shown(members)}")
        for member in members:
            fits = isinstance(member, dict) and "model_name" in member
            if not fits or member.keys() - (self.__dataclass_fields__.keys() - {"members"}):
                raise UserError(f"--members: expected detectors, none of them an ensemble, found {shown(member)}")
        for name, expected in (("output", "mixture"), ("n_output_logits", 1), ("unit", None)):
            if getattr(self, name) != expected:
                words = f"expected {expected}, which an ensemble needs, found {shown(getattr(self, name))}"
                raise UserError(f"--{'labels' if name == 'unit' else name}: {words}")
        object.__setattr__(self, "members", tuple(ModelConfig.from_dict(member).to_dict() for member in members))

    @property
    def options(self) -> dict:
        """All options of the back-end, {name: value}, as its constructor takes them."""
        flagged = {name: getattr(self, name) for name in OPTION_FLAGS if getattr(self, name) is not None}
        return flagged | self.back_end_options

    @staticmethod
    def _check(name, value, expected):
        if words := unfit(value, expected):
            raise UserError(f"--{name}: expected {words}, found {shown(value)}")

    @property
    def front_end(self) -> str:
        return self.model_name.split("_", 1)[0]

    @property
    def back_end(self) -> str:
        return self.model_name.split("_", 1)[1]

    @property
    def encoder_fields(self) -> dict:
        """The fields that the front-end is built of."""
        return self.ssl_config if self.ssl == FROM_FILE else FRONT_ENDS[self.front_end].presets[self.ssl].fields

    def with_first_layers(self, n: int) -> "ModelConfig":
        """The same network on the first n layers of the encoder. Raises UserError if the encoder has fewer."""
        try:
            fields = FRONT_ENDS[self.front_end].first_layers(self.encoder_fields, n)
        except ValueError as error:
            raise UserError(f"--ssl_layers: {error}") from error
        return dataclasses.replace(self, ssl=FROM_FILE, ssl_config=fields)

    def to_dict(self) -> dict:
        """The configuration as plain data, for a checkpoint or JSON."""
        config = dataclasses.asdict(self)
        options = config.pop("back_end_options")
        config |= {"back_end_options": _listed(options)} if options else {}
        if self.unit is None:  # as before there were units
            del config["unit"], config["utterance"]
        if self.teacher is None:
            del config["teacher"]
        if self.members is None:
            del config["members"]
        return _listed(config)

    @classmethod
    def from_dict(cls, stored: dict) -> "ModelConfig":
        """The configuration of a checkpoint or a run. Those of before --back_end_options held options of Nes2Net for
        every back-end: where it has none of these, they are left out.
        """
        if stored.get("model_name") in model_names():
            options = BACK_ENDS[stored["model_name"].split("_", 1)[1]].options()
            stored = {name: v for name, v in stored.items() if name in options or name not in OPTION_FLAGS}
        return cls(**stored)


def _listed(values):
    """Values by name with lists for tuples, as JSON has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def option_value(back_end: str, name: str, value: object) -> int | float | bool | str | tuple:
    """The value of a back-end's option as its constructor takes it.

    Raises UserError if the back-end of that name has no such option, or a value of another kind.
    """
    options = BACK_ENDS[back_end].options()
    flag = f"--{name}" if name in OPTION_FLAGS else f"--back_end_options {shown(name)}"
    if name not in options:
        has = options_text({name: default for name, (default, _) in options.items()}) or "no options"
        raise UserError(f"{flag}: {back_end} has no such option; it has {has}{did_you_mean(name, options)}")
    try:
        return fitted(value, *options[name])
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from error


def add_model_flags(parser: CommandParser, required: bool = False, rare: bool = True) -> None:
    """Add the flags that shape the network. Their default, None, means not given.

    required: a model must be named. rare: --help leaves them out.
    """
    group = parser.add_argument_group(
        "model" if not rare else "model (default: that of the checkpoint)",
        f"front-ends: {', '.join(FRONT_ENDS)}; back-ends: {', '.join(BACK_ENDS)}",
    )
    flags = {
        "model_name": dict(
            required=required,
            rare=rare,
            type=_model_name,
            metavar="NAME",
            help="FRONT-END_BACK-END, such as wav2vec2_Nes2Net_X",
        ),
        "ssl": dict(help="encoder (that of the pre-trained file, or else the published one of the front-end)"),
        "agg": dict(
            help="aggregation of the encoder's hidden states (SEA for WavLM, else last); back-ends that take all "
            "hidden states have none"
        ),
        "pool_func": dict(help="Nes2Net: pooling over time, mean or ASTP (mean)"),
        "dilation": dict(type=Number(int), help="Nes2Net: dilation of the inner convolutions (1 for WavLM, else 2)"),
        "Nes_ratio": dict(type=Number(int), nargs=2, help="Nes2Net: outer and inner number of splits (8 8)"),
        "SE_ratio": dict(type=Number(int), nargs="+", help="Nes2Net: channels divided by width, of the SE gates (1)"),
        "back_end_options": dict(
            type=key_value,
            nargs="+",
            metavar="KEY=VALUE",
            help="options of the back-end, such as heads=8 for MHFA or filters=16,32 for AASIST; an unknown KEY prints "
            "all of them with their defaults",
        ),
        "n_output_logits": dict(
            type=Number(int), help="outputs; 2: spoof and bona fide (1 for Nes2Net on WavLM, else 2)"
        ),
    }
    for name, options in flags.items():
        group.add_argument(f"--{name}", choices=CHOICES.get(name), **{"rare": True, **options})


def _model_name(text):
    if text not in model_names():
        near = did_you_mean(text, model_names())
        raise argparse.ArgumentTypeError(f"expected {MODEL_NAME}, found {shown(text)}{near}")
    return text


def given_model_flags(args: argparse.Namespace) -> dict:
    """The model flags that the user gave, {name: value}: what a checkpoint's configuration must agree with."""
    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in NO_FLAGS]
    flags = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if "back_end_options" in flags:
        flags["back_end_options"] = dict(flags["back_end_options"])
        if len(flags["back_end_options"]) < len(args.back_end_options):
            raise UserError("--back_end_options: expected every KEY once")
    if "model_name" in flags:
        back_end = flags["model_name"].split("_", 1)[1]
        for name in OPTION_FLAGS.keys() & flags.keys() - BACK_ENDS[back_end].options().keys():
            if flags[name] in OPTION_FLAGS[name]:
                warn(f"--{name}: {back_end} has no such option; ignored, as by the published program")
                del flags[name]
    return flags


class Detector(nn.Module):
    """Front-end, aggregation and back-end: waveforms (B, samples) at 16 kHz to logits (B, n_output_logits).

    With two outputs, column 1 speaks for bona fide.
    """

    WORST = 10  # of so many units one, the worst, speaks for an utterance

    # What its checkpoint may say of it: samples of an utterance that it was trained on; the score of a unit at the EER
    # of the dev set's units.
    crop = unit_threshold = None

    def __init__(self, config: ModelConfig, empty_front_end: bool = False) -> None:
        super().__init__()
        self.config = config
        self.teacher = None
        with empty_weights() if empty_front_end else contextlib.nullcontext():
            self.front_end = build_front_end(config)
        if BACK_ENDS[config.back_end].normalizes:
            self.front_end.normalize = True
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
        except ValueError as error:  # which begins with the name of what does not fit
            name = str(error).split(" ")[0].rstrip(":")
            has_flag = name in OPTION_FLAGS or name in ("n_output_logits", "loss")
            raise UserError(f"--{error}" if has_flag else f"--back_end_options {error}") from error

        self.frames_per_unit = None
        if config.unit is not None:
            if why := self.back_end.why_no_frames():
                raise UserError(f"--labels: {config.back_end} scores no frames: it {why}")
            try:
                self.frames_per_unit = self.front_end.frames_per(config.unit)
            except ValueError as error:
                raise UserError(f"--label_step: {config.front_end}: {error}") from error
        if config.teacher is not None:
            if n_hidden_states < 2:
                raise UserError(
                    f"--model_name {config.model_name}: expected a front-end of layers, found none to compare"
                )
            self.teacher = Teacher(ModelConfig.from_dict(config.teacher), empty_front_end)
        members = [Teacher(ModelConfig.from_dict(member), empty_front_end) for member in config.members or ()]
        self.members = nn.ModuleList(members)
        if members:  # whose front-ends hear the same waveforms, and each prepares them for itself
            self.front_end.prepares = False
            self.front_end.least_samples = max(part.front_end.least_samples for part in (self, *members))

    def forward(self, waveforms: torch.Tensor, normalized: bool = False) -> torch.Tensor:
        """normalized: see front_ends.FrontEnd.forward. If the detector scores units, U of them: logits
        (B, 1 + U, n_output_logits), the utterance's and then those of its units, in their order.
        """
        if self.members:
            return self._mixture(waveforms)
        states = self.hidden_states(waveforms, normalized)
        if self.teacher is None:
            return self.classify(states)
        return agreement(states, self.teacher.hidden_states(waveforms, normalized)).unsqueeze(1)

    def _mixture(self, waveforms):
        scores = torch.stack([at_least_float32(member.score(waveforms)) for member in self.members], dim=1)
        return mixture(at_least_float32(self.classify(self.hidden_states(waveforms))), scores).unsqueeze(1)

    def hidden_states(self, waveforms: torch.Tensor, normalized: bool = False) -> list[torch.Tensor]:
        """The front-end's hidden states, n_hidden_states of (B, T, C), as the back-end takes them; see `forward`."""
        if not normalized:
            waveforms = self.front_end.normalized(waveforms)
        prompts = {"prompts": self.back_end.prompts} if self.back_end.gives_prompts else {}
        return self.front_end(waveforms, normalized=True, raw_last=self.back_end.raw_last, **prompts)

    def embed(self, states: list[torch.Tensor]) -> torch.Tensor:
        """Embeddings (B, D) of hidden states, if the back-end has them, see BackEnd.embed; in float32."""
        features = self.aggregation(states)
        with torch.autocast(states[0].device.type, enabled=False):
            return self.back_end.embed(at_least_float32(features))

    def decide(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits (B, n_output_logits) of embeddings, as `forward` gives them; in float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = self.back_end.decide(embeddings)
        return logits.flip(-1) if self.back_end.bonafide_column == 0 else logits

    def classify(self, states: list[torch.Tensor]) -> torch.Tensor:
        """Logits (B, n_output_logits) of the front-end's hidden states, each (B, T, C)."""
        features = self.aggregation(states)
        # The back-end computes in float32, whatever the precision: its part of the products is small, gradients of MoE
        # in bfloat16 were 12 % off, and hundreds of weights need no cast.
        with torch.autocast(states[0].device.type, enabled=False):
            features = at_least_float32(features)
            logits = self._with_units(features) if self.frames_per_unit else self.back_end(features)
        logits = logits.flip(-1) if self.back_end.bonafide_column == 0 else logits
        if self.frames_per_unit and self.config.utterance == "worst":
            return torch.cat([self.worst_of(logits[:, 1:]).unsqueeze(1), logits[:, 1:]], dim=1)
        return logits

    def _with_units(self, features):
        """The logits of the back-end and, as the means of their frames', those of units, see forward."""
        utterance, frames = self.back_end.forward_with_frames(features)
        size = self.frames_per_unit
        means = F.avg_pool1d(frames.transpose(1, 2), size, ceil_mode=True, count_include_pad=False).transpose(1, 2)
        return torch.cat([utterance.unsqueeze(1), means[:, : n_units(frames.shape[1], size)]], dim=1)

    def worst_of(self, units: torch.Tensor) -> torch.Tensor:
        """Logits (B, n_output_logits) of utterances that their worst units decide: the mean of the tenth of them that
        speaks least for bona fide. units: logits (B, U, n_output_logits) as `forward` gives them.
        """
        n_worst = (units.shape[1] + self.WORST - 1) // self.WORST  # ONNX rounds a negative quotient up, not down
        worst = self.for_bonafide(units).topk(n_worst, dim=1, largest=False).indices
        return units.gather(1, worst.unsqueeze(2).expand(-1, -1, units.shape[2])).mean(dim=1)

    @staticmethod
    def for_bonafide(logits: torch.Tensor) -> torch.Tensor:
        """How much logits (..., n_output_logits) speak for bona fide, (...)."""
        return logits[..., 1] - logits[..., 0] if logits.shape[-1] == 2 else logits[..., 0]

    @property
    def inside(self) -> list["Teacher"]:
        """The detectors that it consults: its teacher or its members."""
        return [*self.members] if self.teacher is None else [self.teacher]

    @property
    def same_kernels(self) -> bool:
        """BackEnd.same_kernels of its back-end and of all detectors inside."""
        return self.back_end.same_kernels and all(other.same_kernels for other in self.inside)

    def set_trained(self, front_end: bool) -> None:
        """Ask for the gradients of all parameters that a training step uses; of the front-end's if `front_end`, and of
        its adapters alone if it has some.
        """
        uses_last = self.back_end.uses_last
        unused = self.front_end.unused_parameters(self.back_end.raw_last or not uses_last)
        adapted = has_adapters(self.front_end)
        for name, parameter in self.front_end.named_parameters():
            trained = front_end and not name.startswith(unused)
            parameter.requires_grad_(trained and (is_adapter(name) or not adapted))
        if not uses_last:
            self.front_end.layers()[-1].requires_grad_(False)
        for name, parameter in self.back_end.named_parameters():
            parameter.requires_grad_(not name.startswith(self.back_end.unused_parameters))
        if self.config.output == "agreement":
            self.back_end.output_layer()[1].requires_grad_(False)  # it decides nothing

    def score(self, waveforms: torch.Tensor, normalized: bool = False) -> torch.Tensor:
        """Scores (B,), higher is more bona fide, of waveforms (B, samples)."""
        return self.scores_of(self(waveforms, normalized))

    def scores_of(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of logits as `forward` gives them: the bona fide logit, or what its authors score by."""
        return self._score(logits[:, 0] if self.frames_per_unit else logits)

    def unit_scores_of(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores (B, U), of units, of logits as `forward` gives them."""
        logits = logits[:, 1:]
        return self._score(logits.flatten(0, 1)).view(logits.shape[:2])

    def _score(self, logits):
        if self.config.n_output_logits == 2 and self.config.output != "prototypes":
            return self.back_end.score(logits)
        return self.for_bonafide(logits)


class Teacher(Detector):
    """A detector that is not trained, be it a teacher or a member of an ensemble: in evaluation mode always, and
    without gradients.
    """

    def __init__(self, config: ModelConfig, empty_front_end: bool = False) -> None:
        super().__init__(config, empty_front_end)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)


def agreement(states: list[torch.Tensor], others: list[torch.Tensor]) -> torch.Tensor:
    """The mean cosine (B,) between two networks' hidden states, lists of (B, T, C), over frames and layers. The first,
    the input of the layers, is left out. In float32.
    """
    with torch.autocast(states[0].device.type, enabled=False):
        pairs = zip(at_least_float32(states[1:]), at_least_float32(others[1:]), strict=True)
        cosines = [F.cosine_similarity(state, other, dim=2).mean(dim=1) for state, other in pairs]
        return torch.stack(cosines).mean(dim=0)


def mixture(gate_logits: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Scores (B,) of an ensemble: the mean of its members' scores (B, n), weighted by softmax(gate_logits) (B, n)."""
    return (gate_logits.softmax(dim=1) * scores).sum(dim=1)


def at_least_float32(features: torch.Tensor | list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    """A tensor, or each of a list, in float32 if its precision is lower."""
    if isinstance(features, list):
        return [at_least_float32(state) for state in features]
    return features.to(torch.promote_types(features.dtype, torch.float32))


def build_detector(config: ModelConfig, empty: str | None = None, kind: type[Detector] = Detector) -> Detector:
    """Build a Detector with random weights. Raises UserError where the parts do not fit each other.

    empty: "all" or "front_end", what is left as it comes from memory, because its weights are about to be loaded.
    """
    with empty_weights() if empty == "all" else contextlib.nullcontext():
        return kind(config, empty_front_end=empty is not None)


def use_utterance_batch_norm(detector: Detector) -> None:
    """Let every batch normalisation use the statistics of what it is fed, not those of training.

    The published In-the-Wild scorer works so, by never leaving training mode; with one utterance a batch. Dropout
    stays off. Source: the published main.py.
    """
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.momentum = 0.0  # the stored statistics stay


def choose_device(gpu_id: int = 0) -> torch.device:
    """The CUDA device of that number, which becomes the current one, or the CPU if there is none.

    Raises UserError for a number too high.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if not 0 <= gpu_id < torch.cuda.device_count():
        raise UserError(f"--gpu_id: expected one of 0 to {torch.cuda.device_count() - 1}, found {gpu_id}")
    torch.cuda.set_device(gpu_id)
    return torch.device(f"cuda:{gpu_id}")


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
