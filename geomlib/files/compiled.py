"""Compiled files (`.pt2`): native code of a potential for one kind of machine, with the model file it was made from.

A compiled file is a zip archive that AOTInductor writes. Beside the code stand `compiled.json`, which says for which
machine the code is, and `model.safetensors`, an ordinary model file: so the manifest is read, and the model can be
taken out and exported again, without running anything. Loading a compiled file to use it runs the code in it.
"""

import copy
import json
import platform
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomlib.data.elements import atomic_numbers
from geomlib.data.graph import GraphData, collate
from geomlib.errors import ConfigError, FileFormatError, NewerFile
from geomlib.files.atomic import write_atomically
from geomlib.files.header import existing_file
from geomlib.files.manifest import AnyNet, bare_net
from geomlib.files.modelfile import load, read_manifest, save
from geomlib.models.base import Net
from geomlib.nn.agreement import lowest_precision, require_agreement
from geomlib.nn.derivative import Derivatives, stress_of

__all__ = ["ExportedDerivatives", "export_compiled", "load_compiled", "load_model_inside", "read_compiled_manifest"]

_INFO, _MODEL = "geomlib/compiled.json", "geomlib/model.safetensors"
_FORMAT, _SCHEMA = "geomlib-compiled", 1
_MAX_INFO_BYTES, _MAX_MODEL_BYTES = 1_000_000, 20_000_000_000


class _Code:
    """Compiled code; copies of a net share it."""

    def __init__(self, call: Callable[..., Any], inputs: Mapping[str, str], outputs: list[str]) -> None:
        self.call, self.inputs, self.outputs = call, inputs, outputs

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Code":
        return self

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        dtypes = {name: getattr(torch, dtype) for name, dtype in self.inputs.items()}
        with torch.no_grad():
            values = self.call(*(tensors[name].to(dtype) for name, dtype in dtypes.items()))
        return dict(zip(self.outputs, values, strict=True))


class ExportedDerivatives(Derivatives):
    """A net whose energy, forces, virial and stress come from the code of a compiled file.

    It is for evaluation, on the device and in the precision that it was exported for. Batches of fewer than two
    atoms, edges or angles are evaluated by the net itself.

    Args:
        net: the net that the code was made from.
        code: of the file.
    """

    def __init__(self, net: Net, code: _Code) -> None:
        super().__init__(net)
        self._code = code

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """As `Derivatives.forward`, without a graph for further derivatives."""
        from geomlib.nn.symbolic import traceable, traced_inputs

        if self.training:
            raise ConfigError("a compiled file can't be trained: train the model file that it was exported from")
        inputs = traced_inputs(self.net, batch)
        if not traceable(inputs):
            return super().forward(batch)
        outputs = self._code(inputs)
        outputs |= {name: outputs[name][: batch.num_graphs] for name in ("energy", "virial")}
        stress = stress_of(outputs["virial"], batch)
        return outputs if stress is None else {**outputs, "stress": stress}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ExportedDerivatives":
        for value in self.parameters():
            if (moved := fn(value.detach()[:0])).dtype != value.dtype or moved.device != value.device:
                raise ConfigError(
                    f"a compiled file is for {value.dtype} on {value.device} and can't be moved: export the model "
                    "again with --dtype and --device"
                )
        return super()._apply(fn, recurse)


def export_compiled(net: Any, path: Path) -> Path:
    """Compile a potential to native code for this kind of machine, in one file.

    The code takes any numbers of atoms, edges, angles and graphs. It is compared with eager evaluation before the
    file is written.

    Args:
        net: a potential, bare or wrapped, in the precision and on the device it shall have.
        path: ends in `.pt2`.

    Returns: the path.

    Raises:
        CompileError: no C++ compiler, a net that can't be traced, or code that differs from eager evaluation.
        FileFormatError: a path with another ending.
    """
    from geomlib.nn.compiled import compile_ahead

    if path.suffix != ".pt2":
        raise FileFormatError(f"{path}: a compiled file ends in .pt2")
    inner = copy.deepcopy(bare_net(net)[0]).eval().requires_grad_(False)
    graphs = [_example(inner, count) for count in (40, 27)]
    with tempfile.TemporaryDirectory(prefix="geomlib-export-") as folder:
        package, model = Path(folder) / "model.pt2", Path(folder) / "model.safetensors"
        inputs, outputs = compile_ahead(inner, collate(graphs), package)
        save(inner, model)
        info = {
            "format": _FORMAT,
            "schema": _SCHEMA,
            **_machine(next(inner.parameters()).device.type),
            "inputs": inputs,
            "outputs": outputs,
        }
        with zipfile.ZipFile(package, "a") as archive:
            root = archive.namelist()[0].split("/")[0]
            archive.writestr(f"{root}/{_INFO}", json.dumps(info))
            archive.write(model, f"{root}/{_MODEL}")
        exported = load_compiled(package)
        for graph in (collate(graphs), _example(inner, 15)):
            found, expected = exported(graph), Derivatives(inner).eval()(graph)
            require_agreement(found, expected, lowest_precision(inner.parameters()), "AOTInductor")
        write_atomically(path, package.read_bytes())
    return path


def load_compiled(path: Path, device: str | torch.device | None = None, dtype: Any = None) -> ExportedDerivatives:
    """A net that uses the native code of a compiled file, which is run: open only files that you trust.

    Args:
        path: the file.
        device: has to be that of the file, if given.
        dtype: likewise.

    Raises:
        FileFormatError: not a compiled file, or one for another version of torch, device, processor or precision.
    """
    import torch._inductor

    info = _read_info(path)
    here = _machine(info["device"])
    for key, what in (("torch", "torch"), ("system", "the system"), ("cpu", "processors with"), ("gpu", "GPUs of")):
        if info.get(key) != here[key]:
            raise FileFormatError(
                f"{path}: was compiled for {what} {info.get(key)}, here is {here[key]}: "
                f"geomlib model export {path} NEW.pt2 compiles the model in it again"
            )
    if device is not None and torch.device(device).type != info["device"]:
        raise FileFormatError(f"{path}: was compiled for the device {info['device']}, not {device}: export it for that")
    net = bare_net(load_model_inside(path))[0].to(info["device"])
    precision = str(lowest_precision(net.parameters())).removeprefix("torch.")
    if dtype is not None and str(dtype).removeprefix("torch.") != precision:
        raise FileFormatError(f"{path}: was compiled in {precision}, not {dtype}: export it again with --dtype {dtype}")
    try:
        call = torch._inductor.aoti_load_package(str(path))
    except RuntimeError as error:
        raise FileFormatError(f"{path}: its code can't be loaded: {str(error).splitlines()[0]}") from error
    return ExportedDerivatives(net, _Code(call, info["inputs"], info["outputs"])).eval().requires_grad_(False)


def read_compiled_manifest(path: Path) -> dict[str, Any]:
    """Manifest of the model in a compiled file, and under `compiled` what the code was made for; nothing is run.

    Raises:
        FileFormatError: not a compiled file, or a damaged one.
    """
    info = _read_info(path)
    with _model_inside(path) as model:
        return {**read_manifest(model), "compiled": {key: info[key] for key in _machine("cpu")}}


def load_model_inside(path: Path, device: str | torch.device | None = None, dtype: Any = None) -> AnyNet:
    """The model that a compiled file was made from, to be used without its code; nothing is run.

    Raises:
        FileFormatError: not a compiled file, or a damaged one.
    """
    _read_info(path)
    with _model_inside(path) as model:
        return load(model, device, dtype)


def _machine(device: str) -> dict[str, Any]:
    """What code for a device depends on."""
    capability = None
    if device == "cuda":
        if not torch.cuda.is_available():
            raise FileFormatError("this is code for a GPU, but torch finds none here: export the model for the CPU")
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
    return {
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": capability,
    }


def _read_member(path: Path, ending: str, limit: int) -> bytes:
    file = existing_file(path)
    try:
        with zipfile.ZipFile(file) as archive:
            found = [entry for entry in archive.infolist() if entry.filename.endswith(f"/{ending}")]
            if len(found) != 1:
                raise FileFormatError(
                    f"{file}: is no compiled file of geomlib: '{ending}' is in it {len(found)} times, expected once"
                )
            if found[0].file_size > limit:
                raise FileFormatError(f"{file}: '{ending}' has {found[0].file_size} bytes, expected at most {limit}")
            return archive.read(found[0])
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise FileFormatError(f"{file}: is no compiled file, or a damaged one: {error}") from None


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(_read_member(path, _INFO, _MAX_INFO_BYTES))
    except (ValueError, RecursionError):
        raise FileFormatError(f"{path}: is damaged: its '{_INFO}' is no JSON") from None
    if not isinstance(info, dict) or info.get("format") != _FORMAT:
        raise FileFormatError(f"{path}: is no compiled file of geomlib")
    if info.get("schema") != _SCHEMA:
        raise NewerFile(f"{path}: has schema {info.get('schema')}, this geomlib reads {_SCHEMA}: upgrade geomlib")
    kinds = {**dict.fromkeys(("torch", "system", "device", "cpu"), str), "inputs": dict, "outputs": list}
    for key, kind in kinds.items():
        if not isinstance(info.get(key), kind):
            raise FileFormatError(f"{path}: is damaged: '{key}' is missing in its '{_INFO}' or is no {kind.__name__}")
    return info


@contextmanager
def _model_inside(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="geomlib-compiled-") as folder:
        model = Path(folder) / "model.safetensors"
        model.write_bytes(_read_member(path, _MODEL, _MAX_MODEL_BYTES))
        try:
            yield model
        except FileFormatError as error:
            raise type(error)(f"{path}: the model in it: {str(error).removeprefix(f'{model}: ')}") from None


def _example(net: Net, count: int) -> GraphData:
    """A periodic structure of random elements in which every atom has bonds and angles."""
    cutoffs = [builder.cutoff for builder in net.spec.builders if hasattr(builder, "cutoff")]
    distance = 0.6 * min(cutoffs, default=3.0)
    generator = torch.Generator().manual_seed(count)
    sites = torch.cartesian_prod(*3 * [torch.arange(4.0, dtype=torch.float64)])[:count]
    sites = sites + 0.3 * torch.rand(sites.shape, generator=generator, dtype=torch.float64)
    numbers = torch.tensor(atomic_numbers(getattr(net, "elements", None) or ["H"]))
    graph = GraphData(
        pos=distance * sites,
        atomic_number=numbers[torch.randint(len(numbers), (count,), generator=generator)],
        cell=4.3 * distance * torch.eye(3, dtype=torch.float64).unsqueeze(0),
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )
    if "charge" in net.inputs:
        graph.charge, graph.spin_multiplicity = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    for name, items in (("frame_parameters", 1), ("atom_parameters", count)):
        if name in net.inputs:
            graph[name] = torch.zeros(items, net.config[name], dtype=torch.float64)
    device = next(net.parameters()).device
    return net.spec.build(graph).to(device)
