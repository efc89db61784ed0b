"""The contract of a front-end: all that the rest of the project asks of a speech encoder.

A front-end is one class in one file, and a line in front_ends/__init__.py. Axes: B trials, T frames, C channels.
"""

import bisect
import re
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from common.audio import SAMPLE_RATE
from common.console import check, shown

# --ssl from_file: the shape is that of the file of pre-trained weights.
FROM_FILE = "from_file"
# A shape with a published name. file: where its pre-trained weights are published, None if there are none. fields: what
# the class is built of. first_layers: only the first layers of that file's encoder are used.
Preset = namedtuple("Preset", "file fields first_layers", defaults=[False])


class OtherFrontEnd(ValueError):
    """Settings of an encoder of another family than the one expected."""


class FrontEnd(nn.Module):
    """Waveforms (B, samples) at 16 kHz to hidden states, a list of n_hidden_states tensors (B, T, channels).

    Built of `fields`, {name: value}, which say its shape and which a checkpoint stores. A subclass defines `__init__`,
    sizes, n_frames and forward, and overrides what differs below.
    """

    # The values of --ssl that this front-end has, and their shapes.
    presets: ClassVar[dict[str, Preset]] = {}
    # What the field uses with it, for flags that are not given: values of ModelConfig's ssl, agg, dilation and
    # n_output_logits.
    published: ClassVar[dict] = {}
    # What `fields` may hold: {name: what its value may be, see common.console.unfit}; and values of those not given.
    allowed: ClassVar[dict] = {}
    defaults: ClassVar[dict] = {}
    # What acts on it in training alone, such as a dropout, each a flag of train.py: {name: its value if a pre-trained
    # file does not say it}.
    in_training: ClassVar[dict] = {}
    # The values at which none of it acts: of an encoder from random weights, or out of a detector.
    not_acting: ClassVar[dict] = {}
    # Shorter waveforms are repeated from their start up to this.
    least_samples: ClassVar[int] = 1

    channels: int
    n_hidden_states: int
    normalize: bool = False  # is every waveform layer-normalised over its samples first?
    prepares: bool = True  # does `ready` normalise and cut? Not if other front-ends hear the same waveforms
    model: nn.Module  # holds the weights that pre-trained files hold, under their names

    def __init__(self, fields: dict) -> None:
        super().__init__()
        self.channels, self.n_hidden_states = self.sizes(fields)

    @classmethod
    def sizes(cls, fields: dict) -> tuple[int, int]:
        """(channels, n_hidden_states) of that shape."""
        raise NotImplementedError

    def n_frames(self, n_samples: int) -> int:
        """Number of frames, T, that n_samples give."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Samples from a frame to the next."""
        some = range(self.least_samples, self.least_samples + 10_000_000)
        first, later = (bisect.bisect_left(some, n, key=self.n_frames) for n in (101, 201))
        return (later - first) // 100

    def frames_per(self, seconds: float) -> int:
        """Number of frames in a unit of that length. Raises ValueError if it is not whole."""
        n = seconds * SAMPLE_RATE / self.stride
        if round(n) < 1 or abs(n - round(n)) > 1e-6:
            raise ValueError(f"expected a multiple of {self.stride / SAMPLE_RATE:g} s, its frames, found {seconds:g}")
        return round(n)

    def samples_seen(self, n_samples: int) -> int:
        """How many of n_samples, once normalised, decide the hidden states."""
        return n_samples

    def samples_ready(self, n_samples: int) -> int:
        """How many of n_samples `ready` leaves. Waveforms of which it leaves as many share a batch."""
        return self.samples_seen(n_samples) if self.prepares else n_samples

    def normalized(self, waveforms: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(waveforms, waveforms.shape[-1:]) if self.normalize else waveforms

    def ready(self, x: np.ndarray) -> torch.Tensor:
        """A waveform (samples,) as it enters a batch: normalised by all of its samples, then cut to those seen."""
        waveform = torch.from_numpy(x)
        return (self.normalized(waveform) if self.prepares else waveform)[: self.samples_ready(len(x))]

    def layers(self) -> Sequence[nn.Module]:
        """The layers from first to last, each called once per pass: for recomputing, freezing, layer-wise rates."""
        return ()

    def parts_to_compile(self) -> list[tuple[nn.Module, str]]:
        """[(module, its method that takes the time)], each of which torch.compile translates for itself: equal layers
        share a translation, so that it takes seconds where that of the whole takes minutes.
        """
        return [(layer, "forward") for layer in self.layers()]

    def unused_parameters(self, raw_last: bool) -> tuple[str, ...]:
        """How names of parameters begin that no training step uses. raw_last: see forward."""
        return ()

    def training_places(self) -> dict[str, list[tuple[object, str]]]:
        """{name in in_training: [(object, attribute) that holds its value]}."""
        return {}

    def training_settings(self) -> dict[str, float]:
        """{name: value} of what acts in training alone."""
        return {name: getattr(*places[0]) for name, places in self.training_places().items()}

    def set_training(self, settings: dict[str, float]) -> None:
        """Set values of training_settings."""
        for name, value in settings.items():
            for place, attribute in self.training_places()[name]:
                setattr(place, attribute, value)

    def forward(self, waveforms: torch.Tensor, normalized: bool = False, raw_last: bool = False) -> list[torch.Tensor]:
        """normalized: `waveforms` are what `ready` made. raw_last: the last state is that before a final layer norm.

        One that has layers takes `prompts` as well, see with_prompts.
        """
        raise NotImplementedError

    @classmethod
    def complete(cls, fields: dict) -> dict:
        """`fields` with the values of those that are not given. Two shapes are the same if these are equal."""
        return cls.defaults | fields

    @classmethod
    def shape_of(cls, fields: dict) -> dict:
        """`fields`, perhaps of a pre-trained file, without what acts in training alone."""
        return {name: value for name, value in fields.items() if name not in cls.in_training}

    @classmethod
    def check_fields(cls, fields: dict) -> None:
        """Raises ValueError, saying why, if `fields` are no shape of this front-end."""
        if unknown := [name for name in fields if name not in cls.allowed]:
            raise ValueError(f"{shown(unknown[0])}, which shapes no encoder")
        for name, expected in cls.allowed.items():
            check(name, cls.complete(fields).get(name), expected)

    @classmethod
    def least_parameters(cls, fields: dict) -> int:
        """A lower bound of the number of parameters, by which a file that asks for a huge network is refused."""
        return 0

    @classmethod
    def fields_of(cls, settings: dict) -> dict:
        """The fields, with what acts in training, of a pre-trained file by its settings: Hugging Face's config.json, or
        what a fairseq file has.

        Raises ValueError, saying why, for settings that no encoder here has; OtherFrontEnd if they are another's.
        """
        raise OtherFrontEnd(f"one, but {cls.__name__} has no weights to load")

    @classmethod
    def fields_of_weights(cls, state_dict: dict[str, torch.Tensor]) -> dict:
        """The fields of an encoder in a released detector, by its weights under the names of `model`: all there is.

        Raises ValueError, saying why, for weights that no encoder here has; OtherFrontEnd if they are another's.
        """
        raise OtherFrontEnd(f"weights, expected none for {cls.__name__}")

    @classmethod
    def preset_of(cls, fields: dict) -> str | None:
        """The name of the preset that has this shape."""
        return next((name for name, p in cls.presets.items() if cls.complete(p.fields) == cls.complete(fields)), None)

    @classmethod
    def weights_of(cls, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state dict of a pre-trained file under the names of `model`, without pre-training heads and decoders."""
        return state_dict

    @classmethod
    def first_layers(cls, fields: dict, n: int) -> dict:
        """The fields of an encoder that is the first n layers of this one. Raises ValueError if it has fewer."""
        n_layers = cls.complete(fields).get("encoder_layers", 0)
        if n > n_layers:
            raise ValueError(f"expected at most {n_layers}, the layers of the encoder, found {n}")
        return fields | {"encoder_layers": n}

    @classmethod
    def own_layers(cls, state_dict: dict[str, torch.Tensor], fields: dict) -> dict[str, torch.Tensor]:
        """The state dict of a deeper encoder of this kind without the layers that one of these fields lacks."""
        n_layers = cls.complete(fields).get("encoder_layers", 0)

        def is_own(name):
            layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
            return layer is None or int(layer[1]) < n_layers

        return {name: tensor for name, tensor in state_dict.items() if is_own(name)}


def with_prompts(x: torch.Tensor, layer: int, prompts: Callable[[int, int], torch.Tensor] | None) -> torch.Tensor:
    """A layer's input with its own tokens before the frames: (B, T, C), or (B, N + T, C) behind another layer, whose
    outputs for its tokens are dropped, to (B, N + T, C). prompts: see BackEnd.prompts; None: x as it is.
    """
    if prompts is None:
        return x
    tokens = prompts(layer, len(x)).to(x.dtype)
    return torch.cat([tokens, x[:, tokens.shape[1] if layer else 0 :]], dim=1)


def n_units(n_frames: int, frames_per_unit: int) -> int:
    """How many units frames make. The last may have fewer frames than others, but at least half of them."""
    return torch.sym_max((2 * n_frames + frames_per_unit) // (2 * frames_per_unit), 1)


class empty_weights(TorchFunctionMode):
    """Within, weights are not initialised: memory is asked for and not touched. They are about to be loaded with
    `assign=True`, and nothing else may be done with them.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (
            torch.Tensor.normal_,
            torch.Tensor.uniform_,
        ):
            return args[0] if args else kwargs["tensor"]
        if func is torch._weight_norm:  # every forward pass makes this product anew
            return args[0].detach()
        return func(*args, **kwargs)
