"""`CompiledDerivatives`: energy, forces, virial and stress by code that `torch.compile` makes."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch._functorch.config as functorch_config
import torch._inductor
import torch.export
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

from geomlib.data.graph import GraphData
from geomlib.errors import CompileError, GeomlibWarning
from geomlib.nn.agreement import lowest_precision, require_agreement
from geomlib.nn.derivative import Derivatives, stress_of
from geomlib.nn.symbolic import Trace, item_axis, trace, traceable, traced_inputs

__all__ = ["INDUCTOR_OPTIONS", "CompiledDerivatives", "compile_ahead", "require_cxx"]

logger = logging.getLogger(__name__)

INDUCTOR_OPTIONS: Mapping[str, Any] = {"cpp.max_horizontal_fusion_size": 1}
"""What Inductor is told always. Where torch 2.13 fuses loops on a CPU that only stand side by side, forces of DPA3 with
two blocks or more came out wrong by 1e-3."""

_MEMORY_BUDGET = 0.2
"""Of what a training step would keep for its derivatives at most; what is cheap is computed again. Measured on water
(L6): 2.9 GiB instead of 4.3 GiB in the same time."""


class CompiledDerivatives(Derivatives):
    """As `Derivatives`, compiled on first use: the same numbers, some time later.

    Training and evaluation are compiled apart, and batches with other fields again. Batches of other sizes are not, but
    for two limits that torch has: 16 items of a kind and, in float32, 4,096 terms of a sum; beyond each it compiles
    once more.
    The first batch of each is evaluated in both ways, in training with the gradient of the parameters, and a
    difference is an error. A batch with fewer than two atoms, edges or angles is evaluated without compiled code.
    Should torch want to compile again and again, a warning is given and what follows is eager.

    Args:
        net: as for `Derivatives`; its `forward` can be traced (see `geomlib.nn.tracing`).
        tf32: let a GPU multiply float32 matrices in TF32 where this code runs. Unmeasured; the derivative of a loss
            runs outside of it.
        options: for Inductor, besides `INDUCTOR_OPTIONS`; `{"triton.cudagraphs": True}` is for a GPU and batches of
            one size. Unmeasured.
        backend: of `torch.compile`; `aot_eager` makes no code and needs no compiler, to find out what is at fault.

    Raises:
        CompileError: on the first call: no C++ compiler, a net that can't be traced, code that differs from eager.
    """

    def __init__(
        self,
        net: Any,
        *,
        tf32: bool = False,
        options: Mapping[str, Any] | None = None,
        backend: str = "inductor",
    ) -> None:
        super().__init__(net)
        self.backend = backend
        self.tf32 = tf32
        self.options = {**INDUCTOR_OPTIONS, **(options or {})}
        self._programs: dict[tuple[Any, ...], _Program | None] = {}
        self._weights: tuple[Any, ...] = ()

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """As `Derivatives.forward`."""
        inputs = traced_inputs(self.net, batch)
        if not traceable(inputs):
            return super().forward(batch)
        program = self._program(inputs)
        if program is None:
            return super().forward(batch)
        try:
            with torch.set_grad_enabled(self.training), _tf32(self.tf32):
                if not program.checked:
                    self._compare(self._of_graphs(program(inputs), batch), super().forward(batch))
                    program.checked = True
                values = program(inputs)
        except FailOnRecompileLimitHit:
            self._programs[self._key(inputs)] = None
            warnings.warn(
                "torch has compiled this net for too many kinds of batches and gives up; what follows is evaluated "
                "without compiled code, at its speed",
                GeomlibWarning,
                stacklevel=2,
            )
            return super().forward(batch)
        return self._of_graphs(values, batch)

    def _of_graphs(self, values: dict[str, Tensor], batch: GraphData) -> dict[str, Tensor]:
        """Outputs without the empty graph that was added, and with the stress."""
        of_graph = ("energy", "virial")
        outputs = {name: value[: batch.num_graphs] if name in of_graph else value for name, value in values.items()}
        stress = stress_of(outputs["virial"], batch)
        return outputs if stress is None else {**outputs, "stress": stress}

    def _key(self, inputs: Mapping[str, Tensor]) -> tuple[Any, ...]:
        return (self.training, *((name, value.dtype, value.device) for name, value in inputs.items()))

    def _program(self, inputs: Mapping[str, Tensor]) -> "_Program | None":
        weights = (*self.parameters(), *self.buffers())
        signature = tuple((id(value), value.dtype, value.device, value.requires_grad) for value in weights)
        if signature != self._weights:  # moved, frozen, or given other tensors
            self._programs, self._weights = {}, signature
        key = self._key(inputs)
        if key not in self._programs:
            self._programs[key] = _Program(self.net, inputs, self.backend, self.options)
        return self._programs[key]

    def _compare(self, outputs: Mapping[str, Tensor], eager: Mapping[str, Tensor]) -> None:
        weights = dict(self.named_parameters())
        dtype = lowest_precision(weights.values())
        require_agreement(outputs, eager, dtype, "torch.compile")
        parameters = {name: value for name, value in weights.items() if value.requires_grad}
        if not self.training or not parameters:
            return
        compiled, expected = (
            torch.autograd.grad(_probe(values), list(parameters.values()), materialize_grads=True)
            for values in (outputs, eager)
        )
        require_agreement(
            dict(zip(parameters, compiled, strict=True)),
            dict(zip(parameters, expected, strict=True)),
            dtype,
            "torch.compile, gradient of",
        )

    def __getstate__(self) -> dict[str, Any]:
        """A copy compiles for itself."""
        return {**self.__dict__, "_programs": {}, "_weights": ()}


class _Program:
    """A trace with the code that is made of it on the first call."""

    def __init__(self, net: Any, inputs: Mapping[str, Tensor], backend: str, options: Mapping[str, Any]) -> None:
        if backend == "inductor":
            require_cxx()
        start = time.perf_counter()
        self.trace: Trace = trace(net, inputs)
        logger.info("traced %s in %.1f s", type(net).__name__, time.perf_counter() - start)
        given = {"options": dict(options)} if backend == "inductor" else {"backend": backend}
        self.compiled: Callable[..., Any] = torch.compile(self.trace.graph, dynamic=True, fullgraph=True, **given)
        self.checked = False

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, value in inputs.items():
            torch._dynamo.mark_dynamic(value, item_axis(name))
        start = time.perf_counter()
        try:
            with functorch_config.patch(activation_memory_budget=_MEMORY_BUDGET):
                values = self.compiled(*inputs.values())
        except FailOnRecompileLimitHit:
            raise
        except TorchDynamoException as error:
            raise CompileError(f"torch.compile failed: {_last_line(error)}; go on without compiling") from error
        if not self.checked:
            logger.info("compiled in %.0f s", time.perf_counter() - start)
        return dict(zip(self.trace.outputs, values, strict=True))


def compile_ahead(net: Any, batch: GraphData, path: Path) -> tuple[dict[str, str], list[str]]:
    """Write a net and its derivatives as native code (AOTInductor) that takes any sizes from two.

    Args:
        net: an energy net in evaluation mode, its parameters frozen.
        batch: with its structure, of two graphs at least.
        path: of the archive to write.

    Returns: names and dtypes of the arguments of the code, and names of what it returns.

    Raises:
        CompileError: no C++ compiler, or compiling failed.
    """
    require_cxx()
    inputs = traced_inputs(net, batch)
    program = trace(net, inputs)
    axes = tuple({item_axis(name): torch.export.Dim.AUTO} for name in inputs)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # torch about its own tree of arguments
            exported = torch.export.export(program.graph, tuple(inputs.values()), dynamic_shapes=axes)
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(path), inductor_configs=dict(INDUCTOR_OPTIONS)
            )
    except (TorchDynamoException, CppCompileError, torch._dynamo.exc.UserError) as error:
        raise CompileError(f"AOTInductor failed: {_last_line(error)}") from error
    return {name: str(value.dtype).removeprefix("torch.") for name, value in inputs.items()}, list(program.outputs)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else type(error).__name__)


def require_cxx() -> None:
    """Raise unless there is a C++ compiler, which compiling needs.

    Raises:
        CompileError: there is none.
    """
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise CompileError(
            "compiling needs a C++ compiler: install g++ (Debian: apt install g++; conda: conda install cxx-compiler) "
            "or name one in the environment variable CXX, or go on without compiling"
        ) from None


def _probe(outputs: Mapping[str, Tensor]) -> Tensor:
    """A number that depends on every output in its own way."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for name in ("energy", "forces", "virial"):
        value = outputs[name]
        weights = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
        total = total.to(value.device) + (weights * value).sum()
    return total


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    if wanted:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
