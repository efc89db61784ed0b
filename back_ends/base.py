"""Interface of the back-ends, which map encoder features or hidden states to logits; output layers with cosines."""

import inspect

import torch
from torch import nn
from torch.nn import functional as F


class BackEnd(nn.Module):
    """Base class of the back-ends: (B, T, in_channels) to logits (B, n_output_logits).

    A subclass defines `__init__(self, in_channels, n_output_logits=2, ...)` and `forward` (or `embed` and `decide`),
    overrides the attributes below if their defaults do not hold, and is listed in back_ends.BACK_ENDS. Its parameters
    have the published names. Further arguments of the constructor, each with a default, are its options, see `options`.
    The constructor raises ValueError, starting with the option's name, for invalid values.
    """

    # Takes the list of the encoder's L + 1 hidden states (B, T, in_channels) instead of aggregated features: the input
    # of each of the L layers, then the encoder's output. The constructor then takes `n_hidden_states` as well.
    takes_hidden_states = False
    # Minimum number of layers of the front-end; a spectrogram has none.
    least_layers = 0
    # The last hidden state is the encoder's output before its final layer norm instead of after it.
    raw_last = False
    # Uses the last hidden state. If not, neither the last layer nor the final layer norm is trained.
    uses_last = True
    # Layer-normalises every waveform over its samples, for every encoder.
    normalizes = False
    # Prepends prompt tokens to the input of every encoder layer, see `prompts`. Every hidden state then starts with
    # their outputs, and the constructor takes `n_hidden_states` as well.
    gives_prompts = False
    # Column of bona fide if there are two logits. `score` is always passed logits with bona fide in column 1.
    bonafide_column = 1
    # Minimum size of a training batch; more than 1 if a batch norm sees one value per trial.
    least_batch = 1
    # Settings whose defaults are those that the authors used with the chosen front-end (its `published`): `dilation`,
    # `n_output_logits`. All other defaults are those of the constructor.
    set_by_front_end = ()
    # The authors train on and score the first `test_samples` samples of an utterance. None: the corpus decides.
    test_samples = None
    # Every training step launches the same kernels, whatever its input, without a sync. It can then be recorded as a
    # CUDA graph, and DistributedDataParallel need not search for unused parameters.
    same_kernels = True
    # Names the parts that --compile leaves uncompiled, for its log line; see parts_to_compile.
    not_compiled = ""
    # Prefix of the weights in a published state dict; "" is the top level.
    published_prefix = ""
    # Training data of the released checkpoints, if it is more than the training set of one corpus.
    published_corpora = ""
    # Prefixes of tensors in published checkpoints that the network does not use.
    unused_tensors = ()
    # Prefixes of the network's own parameters that it does not use.
    unused_parameters = ()

    @classmethod
    def options(cls) -> dict[str, tuple]:
        """The back-end's options, {name: (default, kind)}: set by --back_end_options and stored in checkpoints.

        kind: the annotation of the constructor's argument, otherwise the type of its default: int, float, bool, str, a
        Literal of words, or a tuple of these.
        """
        options = {}
        for name, parameter in inspect.signature(cls, eval_str=True).parameters.items():
            default, kind = parameter.default, parameter.annotation
            if name in ("in_channels", "n_hidden_states", "n_output_logits"):
                continue
            if kind is parameter.empty:
                kind = tuple[tuple(map(type, default))] if isinstance(default, tuple) else type(default)
            options[name] = default, kind
        return options

    @staticmethod
    def read_off(state_dict: dict[str, torch.Tensor]) -> dict:
        """Infer settings from the shapes of published weights, {name: value}.

        Raises KeyError, IndexError or ValueError if the weights belong to another network.
        """
        return {}

    @staticmethod
    def score(logits: torch.Tensor) -> torch.Tensor:
        """Scores (B,) from logits (B, 2) with bona fide in column 1. Higher means bona fide."""
        return logits[:, 1]

    def prompts(self, layer: int, n_trials: int) -> torch.Tensor:
        """Prompt tokens (n_trials, N, in_channels) of encoder layer `layer`, counted from 0, if `gives_prompts`."""
        raise NotImplementedError

    def forward_with_frames(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Utterance logits (B, n_output_logits) and frame logits (B, T, n_output_logits) from the input of `forward`.

        Defined by back-ends that can localise spoofed segments within an utterance.
        """
        raise NotImplementedError

    def why_no_frames(self) -> str:
        """Reason, for messages, why there are no frame logits; "" if there are."""
        has_them = type(self).forward_with_frames is not BackEnd.forward_with_frames
        return "" if has_them else "pools over time before its output layer"

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D), for embedding losses, from the input of `forward`.

        A back-end that defines `embed` and `decide` inherits `forward`; all others define `forward` alone.
        """
        raise NotImplementedError

    def decide(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits (B, n_output_logits) from embeddings (B, D)."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decide(self.embed(x))

    def why_no_embeddings(self) -> str:
        """Reason, for messages, why there are no embeddings; "" if there are."""
        return "" if type(self).embed is not BackEnd.embed else "does not define them"

    def parts_to_compile(self) -> list[tuple[nn.Module, str]]:
        """[(module, method name)] that --compile compiles. A loop over frames is better left uncompiled."""
        # A training run calls only one of these or, with an embedding loss, `embed` and `decide`.
        methods = ["forward", "forward_with_frames"]
        methods += [] if self.why_no_embeddings() else ["embed", "decide"]
        return [(self, name) for name in methods]

    def output_layer(self) -> tuple[str, nn.Linear]:
        """(name, module) of the layer that outputs the logits: the last linear layer."""
        return [(name, module) for name, module in self.named_modules() if isinstance(module, nn.Linear)][-1]

    def use_output(self, kind: str) -> None:
        """Replace the output layer by one that outputs cosines, for angular losses. kind: "cosine" or "prototypes".

        Raises ValueError if the back-end cannot be trained with an angular loss.
        """
        name, layer = self.output_layer()
        if kind == "cosine":
            new = CosineLinear(layer.in_features, layer.out_features)
        else:
            new = Prototypes(layer.in_features, bonafide_column=self.bonafide_column)
        self.set_submodule(name, new)


class CosineLinear(nn.Linear):
    """Cosine similarities (B, out) of embeddings (B, in) and `out` learned directions. No bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class Prototypes(nn.Linear):
    """Cosine similarities (B, 2) of embeddings (B, in) and class prototypes, in the back-end's order of columns.

    Spoof has n_spoof prototypes, of which the largest cosine counts; bona fide has one, the last row of the weight.
    """

    def __init__(self, in_features: int, n_spoof: int = 8, bonafide_column: int = 1) -> None:
        super().__init__(in_features, n_spoof + 1, bias=False)
        self.bonafide_column = bonafide_column

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cosines = F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))
        classes = cosines[..., :-1].max(dim=-1).values, cosines[..., -1]
        return torch.stack(classes if self.bonafide_column == 1 else classes[::-1], dim=-1)
