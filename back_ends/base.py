"""The contract of a back-end: from features or hidden states of the encoder to logits."""

import inspect

import torch
from torch import nn
from torch.nn import functional as F


class BackEnd(nn.Module):
    """Base class of the back-ends: (B, T, in_channels) to logits (B, n_output_logits).

    A subclass defines `__init__(self, in_channels, n_output_logits=2, ...)` and `forward` (or `embed` and `decide`),
    sets the attributes below where the default does not hold, and stands in back_ends.BACK_ENDS. Its parameters carry
    the published names. Further arguments of the constructor, each with a default, are its options, see `options`.
    The constructor raises ValueError, the option's name first, for values that fit no network.
    """

    # Takes the list of the encoder's L + 1 hidden states (B, T, in_channels) rather than aggregated features: the input
    # of each of the L layers, then the encoder's output. The constructor then takes `n_hidden_states` as well.
    takes_hidden_states = False
    # Layers that the front-end must have; a spectrogram has none.
    least_layers = 0
    # The last hidden state is the encoder's output before its final layer norm rather than after it.
    raw_last = False
    # Is that state used? If not, neither the last layer nor that norm is trained.
    uses_last = True
    # Is every waveform layer-normalised over its samples first, whatever the encoder?
    normalizes = False
    # Does every layer of the encoder hear tokens of its own, see `prompts`? Their outputs are then before the frames of
    # every hidden state, and the constructor takes `n_hidden_states` as well.
    gives_prompts = False
    # Column of two logits that speaks for bona fide. `score` sees bona fide in column 1 in any case.
    bonafide_column = 1
    # Trials that a training batch must hold; more than 1 if a batch norm sees one value per trial.
    least_batch = 1
    # Settings whose default is what the authors used with the chosen front-end (its `published`): `dilation`,
    # `n_output_logits`. The default of all others is the constructor's.
    set_by_front_end = ()
    # Samples of an utterance, its first, that the authors train on and score. None: the corpus says what is scored.
    test_samples = None
    # Does a training step launch the same kernels whatever it is fed, and wait for none? Then a CUDA graph holds it,
    # and several processes need not look for parameters that a step left out.
    same_kernels = True
    # What of it --compile leaves as it is, in words, see parts_to_compile.
    not_compiled = ""
    # Prefix of the weights in a published state dict; "" is the top level.
    published_prefix = ""
    # What its released checkpoints were trained on, if that is more than the training set of one corpus.
    published_corpora = ""
    # How names of tensors begin that published checkpoints hold and the network never uses.
    unused_tensors = ()
    # How names of its own parameters begin that the network never uses.
    unused_parameters = ()

    @classmethod
    def options(cls) -> dict[str, tuple]:
        """The back-end's own options, {name: (default, kind)}: settable by --back_end_options, stored in checkpoints.

        kind: the annotation of the constructor's argument, or else the type of its default: int, float, bool, str, a
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
        """The settings that the shapes of published weights tell, {name: value}.

        Raises KeyError, IndexError or ValueError for weights of another network.
        """
        return {}

    @staticmethod
    def score(logits: torch.Tensor) -> torch.Tensor:
        """Scores (B,), higher is more bona fide, from logits (B, 2) with bona fide in column 1."""
        return logits[:, 1]

    def prompts(self, layer: int, n_trials: int) -> torch.Tensor:
        """Tokens (n_trials, N, in_channels) for a layer of the encoder, from 0, if it gives prompts."""
        raise NotImplementedError

    def forward_with_frames(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` takes, to (its logits (B, n_output_logits), logits of every frame (B, T, n_output_logits)).

        For back-ends that can say where in an utterance the speech is spoofed; others leave it as it is.
        """
        raise NotImplementedError

    def why_no_frames(self) -> str:
        """Why it gives no logits of frames, in words; "" if it does."""
        has_them = type(self).forward_with_frames is not BackEnd.forward_with_frames
        return "" if has_them else "pools over time before its decision"

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """What `forward` takes, to embeddings (B, D), of which `decide` makes the logits. For losses of embeddings;
        a back-end that defines both has a `forward`, others leave them as they are.
        """
        raise NotImplementedError

    def decide(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits (B, n_output_logits) of embeddings (B, D)."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decide(self.embed(x))

    def why_no_embeddings(self) -> str:
        """Why it gives no embeddings, in words; "" if it does."""
        return "" if type(self).embed is not BackEnd.embed else "does not say which of its layers gives them"

    def parts_to_compile(self) -> list[tuple[nn.Module, str]]:
        """[(module, its method)] that --compile translates; a loop over frames is better left as it is."""
        methods = [
            "forward",
            "forward_with_frames",
        ]  # of which a training calls one, or the two of a loss of embeddings
        methods += [] if self.why_no_embeddings() else ["embed", "decide"]
        return [(self, name) for name in methods]

    def output_layer(self) -> tuple[str, nn.Linear]:
        """(name, module) of the layer that gives the logits: the last of the linear layers."""
        return [(name, module) for name, module in self.named_modules() if isinstance(module, nn.Linear)][-1]

    def use_output(self, kind: str) -> None:
        """Let the output layer give cosines, which angular losses train. kind: "cosine" or "prototypes".

        Raises ValueError if no loss of cosines fits the back-end.
        """
        name, layer = self.output_layer()
        if kind == "cosine":
            new = CosineLinear(layer.in_features, layer.out_features)
        else:
            new = Prototypes(layer.in_features, bonafide_column=self.bonafide_column)
        self.set_submodule(name, new)


class CosineLinear(nn.Linear):
    """Cosines (B, out) between an embedding (B, in) and directions. No bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class Prototypes(nn.Linear):
    """Cosines (B, 2) between an embedding (B, in) and prototypes: the largest to those of spoof, n_spoof, and that to
    the one of bona fide, in the back-end's order of columns. The last row of the weight is that of bona fide.
    """

    def __init__(self, in_features: int, n_spoof: int = 8, bonafide_column: int = 1) -> None:
        super().__init__(in_features, n_spoof + 1, bias=False)
        self.bonafide_column = bonafide_column

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cosines = F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))
        classes = cosines[..., :-1].max(dim=-1).values, cosines[..., -1]
        return torch.stack(classes if self.bonafide_column == 1 else classes[::-1], dim=-1)
