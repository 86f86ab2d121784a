"""`geomlib model`: look at model files, check them, bring in models of other packages and write for them."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomlib.errors import ConfigError, DataError, FileFormatError

if TYPE_CHECKING:
    from geomlib.data.graph import GraphData
    from geomlib.files.manifest import AnyNet

__all__ = ["configure", "run"]

_ENDINGS = {".dp": "deepmd", ".yaml": "deepmd", ".yml": "deepmd", ".pt2": "compiled"}
"""Ending of an exported file → its format."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib model`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    info = actions.add_parser("info", help="what a model file says about itself")
    info.add_argument(
        "file", metavar="FILE", help="a model file (.safetensors), a checkpoint (.ckpt) or a compiled file (.pt2)"
    )
    importing = actions.add_parser(
        "import", help="make a model file of a DPA3 model of deepmd-kit, or of a Hugging Face folder"
    )
    importing.add_argument("source", metavar="SRC", help="a .dp, .yaml or training .pt file, or a Hugging Face folder")
    importing.add_argument("target", metavar="DST", help="the model file to write (.safetensors)")
    importing.add_argument("--head", help="one head of a multi-task checkpoint; all of them if not given")
    importing.add_argument(
        "--dtype", choices=("float32", "float64"), help="precision to store; that of SRC if not given"
    )
    importing.add_argument(
        "--compat_pad_token_id", type=int, help="padding id that an encoder was trained with, if not that of its config"
    )
    exporting = actions.add_parser(
        "export",
        help="write a model as native code (.pt2), for deepmd-kit and by it LAMMPS, or as a Hugging Face folder",
    )
    exporting.add_argument("source", metavar="MODEL", help="a model file (.safetensors) or a checkpoint (.ckpt)")
    exporting.add_argument(
        "target",
        metavar="OUT",
        help=f"the file to write ({', '.join(_ENDINGS)}), or the folder of --format huggingface",
    )
    exporting.add_argument("--head", help="which head of a model that has several")
    exporting.add_argument("--device", help="what a compiled file (.pt2) is for, e.g. cuda; the CPU if not given")
    exporting.add_argument(
        "--format",
        choices=sorted({*_ENDINGS.values(), "huggingface"}),
        help="what to write; by the ending of OUT if not given",
    )
    exporting.add_argument(
        "--dtype", choices=("float32", "float64"), help="precision to store; that of MODEL if not given"
    )
    verify = actions.add_parser("verify", help="load a model file strictly and run it once")
    verify.add_argument(
        "file", metavar="FILE", help="a model file (.safetensors), a checkpoint (.ckpt) or a compiled file (.pt2)"
    )
    for action in (info, importing, exporting, verify):
        action.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib model`."""
    return {"info": _info, "import": _import, "export": _export, "verify": _verify}[args.action](args)


def _info(args: argparse.Namespace) -> int:
    manifest = _manifest(args.file)
    print(json.dumps(manifest, ensure_ascii=False) if args.json else "\n".join(_describe(args.file, manifest)))
    return 0


def _manifest(file: str) -> dict[str, Any]:
    if Path(file).suffix == ".ckpt":
        from geomlib.files.checkpoint import checkpoint_manifest

        return checkpoint_manifest(file)
    if Path(file).suffix == ".pt2":
        from geomlib.files.compiled import read_compiled_manifest

        return read_compiled_manifest(Path(file))
    from geomlib.files.header import read_manifest, split_head

    return read_manifest(split_head(file)[0])


def _describe(file: str, manifest: dict[str, Any]) -> list[str]:
    rows = {
        "family": f"{manifest['family']} (version {manifest['family_version']})",
        "elements": " ".join(manifest.get("elements") or []),
        "heads": " ".join(manifest.get("heads") or []),
        "parameters": f"{manifest.get('parameters', 0):,} in {manifest.get('dtype', 'unknown precision')}",
    }
    for builder in manifest["spec"].get("builders", []):
        settings = ((key, value) for key, value in builder.items() if key != "kind")
        rows[str(builder.get("kind"))] = ", ".join(
            f"{key.replace('_', ' ')} {value}{' Å' if 'cutoff' in key else ''}" for key, value in settings
        )
    outputs = manifest.get("outputs", {})
    rows["outputs"] = ", ".join(f"{name} [{row['unit'] or '1'} per {row['level']}]" for name, row in outputs.items())
    for key in ("trained_on", "metrics", "source", "compiled"):
        rows[key.replace("_", " ")] = ", ".join(f"{name} {value}" for name, value in (manifest.get(key) or {}).items())
    for key in ("licence", "citation", "created"):
        rows[key] = str(manifest.get(key) or "")
    rows["made with"] = ", ".join(f"{name} {number}" for name, number in manifest.get("versions", {}).items())
    width = max(map(len, rows))
    return [file, *(f"  {name:<{width}}  {text}" for name, text in rows.items() if text)]


def _import(args: argparse.Namespace) -> int:
    from geomlib.files.deepmd import build_deepmd, read_deepmd, read_deepmd_heads
    from geomlib.files.modelfile import save
    from geomlib.models import MultiHeadDPA3

    if Path(args.source).is_dir():
        return _import_folder(args)
    if args.compat_pad_token_id is not None:
        raise ConfigError("--compat_pad_token_id is for Hugging Face folders")
    heads = read_deepmd_heads(args.source) if args.head is None else {}
    net: AnyNet
    if heads:
        net = MultiHeadDPA3.join({name: build_deepmd(model, args.dtype) for name, model in heads.items()})
        source = {key: value for key, value in next(iter(heads.values())).source.items() if key != "head"}
    else:
        model = read_deepmd(args.source, args.head)
        net, source = build_deepmd(model, args.dtype), model.source
    return _imported(save(net, args.target, source=source), args)


def _import_folder(args: argparse.Namespace) -> int:
    import torch

    from geomlib.files.huggingface import import_huggingface
    from geomlib.files.modelfile import save

    if args.head is not None:
        raise ConfigError(f"--head names one of several heads; the folder {args.source} holds one encoder")
    net = import_huggingface(args.source, args.compat_pad_token_id)
    if args.dtype is not None:
        net = net.to(getattr(torch, args.dtype))
    source = {"software": "transformers", "file": Path(args.source).absolute().name}
    return _imported(save(net, args.target, source=source), args)


def _imported(file: Path, args: argparse.Namespace) -> int:
    manifest = _manifest(str(file))
    if args.json:
        print(json.dumps({"file": str(file), "manifest": manifest}, ensure_ascii=False))
        return 0
    print("\n".join(_describe(str(file), manifest)))
    print(f"next: geomlib model verify {file}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from geomlib.files.modelfile import load

    form = args.format or _ENDINGS.get(Path(args.target).suffix)
    if form is None:
        raise FileFormatError(f"{args.target}: no format is written with this ending; use {', '.join(_ENDINGS)}")
    if args.device is not None and form != "compiled":
        raise ConfigError(f"--device is for compiled files (.pt2), not for the format {form}")
    if Path(args.source).suffix == ".pt2":
        from geomlib.files.compiled import load_model_inside

        net = load_model_inside(Path(args.source), args.device, args.dtype)
    else:
        net = load(args.source, args.device, dtype=args.dtype, head=args.head)
    file, next_step = _EXPORTS[form](net, args)
    parts = [part for part in file.iterdir() if part.is_file()] if file.is_dir() else [file]
    size = sum(part.stat().st_size for part in parts)
    if args.json:
        print(json.dumps({"file": str(file), "format": form, "bytes": size}))
    else:
        print(f"{file}: {size:,} bytes in the format {form}\nnext: {next_step}")
    return 0


def _export_deepmd(net: "AnyNet", args: argparse.Namespace) -> tuple[Path, str]:
    from geomlib.files.deepmd_export import export_deepmd

    file = export_deepmd(net, args.target)
    return file, f"dp convert-backend {file} {file.with_suffix('.pth')}"


def _export_compiled(net: "AnyNet", args: argparse.Namespace) -> tuple[Path, str]:
    from geomlib.files.compiled import export_compiled

    file = export_compiled(net, Path(args.target))
    return file, f"geomlib md {file} STRUCTURE   (a compiled file holds native code: open only those that you trust)"


def _export_huggingface(net: "AnyNet", args: argparse.Namespace) -> tuple[Path, str]:
    from geomlib.files.huggingface import export_huggingface

    folder = export_huggingface(net, args.target)
    return folder, f"transformers.AutoModelForMaskedLM.from_pretrained('{folder}')"


_EXPORTS = {"compiled": _export_compiled, "deepmd": _export_deepmd, "huggingface": _export_huggingface}
"""Format → what writes it and says what to do next."""


def _verify(args: argparse.Namespace) -> int:
    import torch

    from geomlib.files.header import split_head
    from geomlib.files.manifest import bare_net
    from geomlib.files.modelfile import load

    net = load(args.file, head=None if split_head(args.file)[1] else "*")
    for name, value in net.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DataError(f"{args.file}: the weights '{name}' are not all finite")
    checked = ["header and checksum", "every tensor fits the net", "all weights finite"]
    graph = _tiny_structure(net)
    for position, head in enumerate(bare_net(net)[0].heads or [""] if graph is not None else []):
        assert graph is not None
        if head:
            graph.head = torch.tensor([position])
        of_head = f" of head {head}" if head else ""
        for name, value in net(net.spec.build(graph)).items():
            if not bool(torch.isfinite(value).all()):
                raise DataError(f"{args.file}: '{name}'{of_head} of a small structure is not finite")
        checked.append(f"finite outputs{of_head} for a chain of {graph.num_nodes} atoms")
    if args.json:
        print(json.dumps({"file": args.file, "ok": True, "checked": checked}))
    else:
        print("\n".join([f"{args.file}: good", *(f"  {line}" for line in checked)]))
    return 0


def _tiny_structure(net: "AnyNet") -> "GraphData | None":
    """A zigzag chain with one atom of each element, two at least; None for nets that are not about elements."""
    import torch

    from geomlib.data.elements import atomic_numbers
    from geomlib.data.graph import GraphData
    from geomlib.files.manifest import bare_net

    config = bare_net(net)[0].config
    numbers = atomic_numbers(config.get("elements") or [])
    if not numbers:
        return None
    numbers = numbers if len(numbers) > 1 else 2 * numbers
    count = len(numbers)
    step = torch.arange(count, dtype=torch.float64)
    graph = GraphData(
        pos=torch.stack([1.3 * step, 0.8 * (step % 2), 0.1 * step.sin()], dim=1),
        atomic_number=torch.tensor(numbers),
    )
    if config.get("charge_spin_embedding"):
        graph.charge, graph.spin_multiplicity = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    for name, items in (("frame_parameters", 1), ("atom_parameters", count)):
        if config.get(name):
            graph[name] = torch.zeros(items, config[name], dtype=torch.float64)
    return graph
