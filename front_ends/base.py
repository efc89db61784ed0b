"""Interface of the front-ends (speech encoders) to the rest of the project.

A front-end is a class in a file of its own, listed in front_ends/__init__.py. Axes: B trials, T frames, C channels.
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

# --ssl from_file: the encoder has the shape of the file of pre-trained weights.
FROM_FILE = "from_file"
# A named encoder shape. file: published file of pre-trained weights, or None. fields: argument of the constructor.
# first_layers: only the first layers of that file's encoder are used.
Preset = namedtuple("Preset", "file fields first_layers", defaults=[False])


class OtherFrontEnd(ValueError):
    """The settings or weights belong to another encoder family than expected."""


class FrontEnd(nn.Module):
    """Waveforms (B, samples) at 16 kHz to hidden states, a list of n_hidden_states tensors (B, T, channels).

    Constructed from `fields`, {name: value}, which define its shape and are stored in checkpoints. A subclass defines
    `__init__`, sizes, n_frames and forward, and overrides the attributes and methods below that differ.
    """

    # {value of --ssl: shape}.
    presets: ClassVar[dict[str, Preset]] = {}
    # Published values of ModelConfig's ssl, agg, dilation and n_output_logits, the defaults with this front-end.
    published: ClassVar[dict] = {}
    # {name in `fields`: allowed values, see common.console.unfit}, and default values.
    allowed: ClassVar[dict] = {}
    defaults: ClassVar[dict] = {}
    # Training-only settings such as dropout, each a flag of train.py: {name: default if a pre-trained file does not set
    # it}.
    in_training: ClassVar[dict] = {}
    # Their values that switch them off: for random weights, and for encoders from a detector.
    not_acting: ClassVar[dict] = {}
    # Shorter waveforms are repeated from their start to this length.
    least_samples: ClassVar[int] = 1

    channels: int
    n_hidden_states: int
    normalize: bool = False  # layer-normalise every waveform over its samples
    prepares: bool = True  # `ready` normalises and cuts; False if other front-ends share the waveforms
    model: nn.Module  # contains the weights of pre-trained files, under their names

    def __init__(self, fields: dict) -> None:
        super().__init__()
        self.channels, self.n_hidden_states = self.sizes(fields)

    @classmethod
    def sizes(cls, fields: dict) -> tuple[int, int]:
        """(channels, n_hidden_states) of a shape."""
        raise NotImplementedError

    def n_frames(self, n_samples: int) -> int:
        """Number of frames T for n_samples."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Frame shift in samples."""
        some = range(self.least_samples, self.least_samples + 10_000_000)
        first, later = (bisect.bisect_left(some, n, key=self.n_frames) for n in (101, 201))
        return (later - first) // 100

    def frames_per(self, seconds: float) -> int:
        """Number of frames in a unit of `seconds`. Raises ValueError if it is not an integer."""
        n = seconds * SAMPLE_RATE / self.stride
        if round(n) < 1 or abs(n - round(n)) > 1e-6:
            raise ValueError(
                f"expected a multiple of {self.stride / SAMPLE_RATE:g} s, its frame shift, found {seconds:g}"
            )
        return round(n)

    def samples_seen(self, n_samples: int) -> int:
        """Number of samples, of n_samples after normalisation, that the hidden states depend on."""
        return n_samples

    def samples_ready(self, n_samples: int) -> int:
        """Length of the output of `ready` for n_samples. Waveforms with equal lengths can share a batch."""
        return self.samples_seen(n_samples) if self.prepares else n_samples

    def normalized(self, waveforms: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(waveforms, waveforms.shape[-1:]) if self.normalize else waveforms

    def ready(self, x: np.ndarray) -> torch.Tensor:
        """Prepare a waveform (samples,) for a batch: normalise over all samples, then cut to samples_ready."""
        waveform = torch.from_numpy(x)
        return (self.normalized(waveform) if self.prepares else waveform)[: self.samples_ready(len(x))]

    def layers(self) -> Sequence[nn.Module]:
        """Layers in order, each called once per pass, for gradient checkpointing, freezing and layer-wise rates."""
        return ()

    def parts_to_compile(self) -> list[tuple[nn.Module, str]]:
        """[(module, method name)] that --compile compiles, each on its own.

        Equal layers share the compiled code, so that compiling takes seconds instead of minutes for the whole encoder.
        """
        return [(layer, "forward") for layer in self.layers()]

    def unused_parameters(self, raw_last: bool) -> tuple[str, ...]:
        """Prefixes of parameters that no training step uses. raw_last: see forward."""
        return ()

    def training_places(self) -> dict[str, list[tuple[object, str]]]:
        """{name in in_training: [(object, attribute) that stores its value]}."""
        return {}

    def training_settings(self) -> dict[str, float]:
        """Current training-only settings, {name: value}."""
        return {name: getattr(*places[0]) for name, places in self.training_places().items()}

    def set_training(self, settings: dict[str, float]) -> None:
        """Set training-only settings."""
        for name, value in settings.items():
            for place, attribute in self.training_places()[name]:
                setattr(place, attribute, value)

    def forward(self, waveforms: torch.Tensor, normalized: bool = False, raw_last: bool = False) -> list[torch.Tensor]:
        """Hidden states of waveforms (B, samples).

        normalized: `waveforms` are outputs of `ready`. raw_last: the last state is taken before the final layer norm.
        Front-ends with layers take `prompts` as well, see with_prompts.
        """
        raise NotImplementedError

    @classmethod
    def complete(cls, fields: dict) -> dict:
        """`fields` with defaults filled in. Two shapes are the same if their complete fields are equal."""
        return cls.defaults | fields

    @classmethod
    def shape_of(cls, fields: dict) -> dict:
        """`fields` without training-only settings, which those of pre-trained files contain."""
        return {name: value for name, value in fields.items() if name not in cls.in_training}

    @classmethod
    def check_fields(cls, fields: dict) -> None:
        """Raise ValueError with the reason if `fields` are not a valid shape of this front-end."""
        if unknown := [name for name in fields if name not in cls.allowed]:
            raise ValueError(f"unknown encoder setting {shown(unknown[0])}")
        for name, expected in cls.allowed.items():
            check(name, cls.complete(fields).get(name), expected)

    @classmethod
    def least_parameters(cls, fields: dict) -> int:
        """Lower bound of the number of parameters, to refuse files that request a huge network."""
        return 0

    @classmethod
    def fields_of(cls, settings: dict) -> dict:
        """Fields, with training-only settings, from the settings of a pre-trained file.

        settings: Hugging Face's config.json, or the settings in a fairseq file.
        Raises ValueError with the reason for unsupported settings; OtherFrontEnd for those of another family.
        """
        raise OtherFrontEnd(f"weights, but {cls.__name__} has none")

    @classmethod
    def fields_of_weights(cls, state_dict: dict[str, torch.Tensor]) -> dict:
        """Infer the fields of a published detector's encoder from its weights, with the names of `model`.

        Raises ValueError with the reason for unsupported weights; OtherFrontEnd for those of another family.
        """
        raise OtherFrontEnd(f"weights, expected none for {cls.__name__}")

    @classmethod
    def preset_of(cls, fields: dict) -> str | None:
        """Name of the preset with this shape, or None."""
        return next((name for name, p in cls.presets.items() if cls.complete(p.fields) == cls.complete(fields)), None)

    @classmethod
    def weights_of(cls, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """State dict of a pre-trained file with the names of `model`, without pre-training heads and decoders."""
        return state_dict

    @classmethod
    def first_layers(cls, fields: dict, n: int) -> dict:
        """Fields of the encoder's first n layers. Raises ValueError if it has fewer."""
        n_layers = cls.complete(fields).get("encoder_layers", 0)
        if n > n_layers:
            raise ValueError(f"expected at most {n_layers}, the layers of the encoder, found {n}")
        return fields | {"encoder_layers": n}

    @classmethod
    def own_layers(cls, state_dict: dict[str, torch.Tensor], fields: dict) -> dict[str, torch.Tensor]:
        """State dict of a deeper encoder, reduced to the layers of an encoder with these fields."""
        n_layers = cls.complete(fields).get("encoder_layers", 0)

        def is_own(name):
            layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
            return layer is None or int(layer[1]) < n_layers

        return {name: tensor for name, tensor in state_dict.items() if is_own(name)}


def with_prompts(x: torch.Tensor, layer: int, prompts: Callable[[int, int], torch.Tensor] | None) -> torch.Tensor:
    """Prepend the prompt tokens of a layer to its input: (B, T, C), or (B, N + T, C) from layer 1 on, -> (B, N + T, C).

    From layer 1 on, the outputs for the tokens of the layer before are dropped. prompts: see BackEnd.prompts; None:
    return x unchanged.
    """
    if prompts is None:
        return x
    tokens = prompts(layer, len(x)).to(x.dtype)
    return torch.cat([tokens, x[:, tokens.shape[1] if layer else 0 :]], dim=1)


def n_units(n_frames: int, frames_per_unit: int) -> int:
    """Number of units. The last unit may have fewer frames than the others, but at least half as many."""
    return torch.sym_max((2 * n_frames + frames_per_unit) // (2 * frames_per_unit), 1)


class empty_weights(TorchFunctionMode):
    """Context in which modules are built without initialising their weights: memory is allocated but not touched.

    The only valid use of these weights is to replace them by loading a state dict with `assign=True`.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (
            torch.Tensor.normal_,
            torch.Tensor.uniform_,
        ):
            return args[0] if args else kwargs["tensor"]
        if func is torch._weight_norm:  # computed again in every forward pass
            return args[0].detach()
        return func(*args, **kwargs)
