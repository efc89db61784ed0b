"""One CUDA graph for the gradients of a training step: a step of thousands of small kernels is launched as one."""

from collections import Counter
from collections.abc import Callable, Iterable

import torch

WARM_UP = 3  # calls before: what is made on a first call, such as cuDNN's plans, cannot be recorded


class GraphedGradients:
    """A function of tensors on a GPU that leaves gradients in parameters, replayed as a CUDA graph.

    function: takes tensors, returns a tensor, and sets the `grad` of `parameters` anew. It must launch the same kernels
    each time and never wait for the device. Of the first shape that comes WARM_UP times the next call is recorded; all
    later ones are replayed. Other shapes, such as an epoch's last batch, run as they are.
    A replay draws random numbers anew, but not those that the function would have drawn unrecorded.
    """

    def __init__(self, function: Callable[..., torch.Tensor], parameters: Iterable[torch.nn.Parameter]) -> None:
        self.function, self.parameters = function, list(parameters)
        self.calls, self.shapes, self.graph = Counter(), None, None
        # Nothing can be recorded on the default stream, and gradients are added up on the stream of their first use.
        self.stream = torch.cuda.Stream()

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        shapes = tuple(tensor.shape for tensor in tensors)
        if self.graph is None and self.calls[shapes] == WARM_UP:
            self._record(tensors)
            self.shapes = shapes
        if shapes == self.shapes:
            torch._foreach_copy_(self.inputs, tensors)
            self.graph.replay()
            for parameter, gradient in zip(self.parameters, self.gradients):
                parameter.grad = gradient  # that of a call with other shapes may be there
            return self.output.clone()
        self.calls[shapes] += 1
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            output = self.function(*tensors)
        torch.cuda.current_stream().wait_stream(self.stream)
        return output

    def _record(self, tensors):
        self.inputs = [tensor.clone() for tensor in tensors]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.output = self.function(*self.inputs)
        self.gradients = [parameter.grad for parameter in self.parameters]
