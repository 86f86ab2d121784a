"""Fine-tuning: where the weights of a fresh fit come from, and how they are made to fit the net."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from geomlib.data.stores import Store
from geomlib.errors import ConfigError, nearest
from geomlib.files.deepmd import DeepmdModel, build_deepmd, import_deepmd, read_deepmd_heads
from geomlib.files.header import split_head
from geomlib.files.manifest import AnyNet, bare_net
from geomlib.files.modelfile import load
from geomlib.models.base import Net
from geomlib.models.dpa3 import DPA3
from geomlib.models.dpa3.multihead import MultiHeadDPA3
from geomlib.models.dpa3.transfer import with_code, with_elements, without_code
from geomlib.models.property import PropertyNet
from geomlib.nn.lora import is_adapted
from geomlib.tasks.bias import refit_energy_bias

__all__ = ["Heads", "Start", "start_from", "start_property"]

logger = logging.getLogger(__name__)

Heads = str | dict[str, str | None]
"""One head of a file, or for each head of the net the one it starts from (null: a fresh fitting net)."""

_DEEPMD = (".dp", ".yaml", ".yml", ".pt")
_FREE = {
    *("elements", "heads", "fitting", "head_fitting_layers", "dataset_encoding", "dataset_biases"),
    *("excluded_pairs", "excluded_elements"),
    *("precision", "fitting_precision", "initialization", "recompute", "residual_scale", "residual_init"),
}
"""Arguments in which file and net may differ without a word."""
_CODE = ("dataset_encoding", "dataset_biases")


@dataclass(frozen=True)
class Start:
    """What a fit starts from.

    Args:
        weights: a model file or checkpoint (`FILE#HEAD` for one of its heads), or a model of deepmd-kit.
        head: which head of the file; for a net with heads also the one that each starts from. By default a net's
            head starts from the head of its own name.
        bias: energies of the elements: `refit` adds what the file's net gets wrong on the training set, `keep` takes
            the file's, `fresh` fits them to the labels alone, as a fresh fit does.
        fitting: `keep` the file's fitting net or start from a `random` one.

    Raises:
        ConfigError: words that are none of these.
    """

    weights: str
    head: Heads | None = None
    bias: Literal["refit", "keep", "fresh"] = "refit"
    fitting: Literal["keep", "random"] = "keep"

    def __post_init__(self) -> None:
        for name, choices in (("bias", ("refit", "keep", "fresh")), ("fitting", ("keep", "random"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"model.{name} is '{getattr(self, name)}'; choose from {', '.join(choices)}")


def start_from(net: AnyNet, start: Start, store: Store | None) -> None:
    """Fill a net with the weights and statistics of a file; see `Start`.

    Args:
        net: as configured, with fresh weights.
        start: where from, and how.
        store: the training graphs.

    Raises:
        ConfigError: a head that does not exist, or a net of another configuration.
        FileFormatError: a file that can't be read.
    """
    target = bare_net(net)[0]
    source = _Source(start.weights)
    if isinstance(target, PropertyNet):
        start_property(target, source.single(start.head if isinstance(start.head, str) else None), start, store)
        return
    fresh = _with_statistics(target, store, start)
    if isinstance(target, MultiHeadDPA3):
        began = _start_heads(target, source, start)
    else:
        if isinstance(start.head, dict):
            raise ConfigError("model.head names heads of the net, but the net has none: give one name")
        _fill(target, source.single(start.head), source.path, keep_fitting=start.fitting == "keep")
        began = {"": start.fitting == "keep"}
    for head, kept in began.items():
        _take_statistics(target, fresh, head, bias=start.bias == "fresh", fitting=not kept)
    if start.bias == "refit" and store is not None and hasattr(target, "energy_bias"):
        refit_energy_bias(target, store)


_OF_HEAD = ("head.", "normalizer.")
_INDIFFERENT = {
    "targets",
    "head",
    "head_layers",
    "dropout",
    "encoder_dropout",
    "attention_dropout",
    "lora",
    "recompute",
}
"""Arguments in which a net of properties and the file that it starts from may differ without a word."""


def start_property(target: PropertyNet, source: Net, start: Start, store: Store | None) -> None:
    """Fill a net of properties from a net that holds its tensors by the same names.

    That may be the same net, one with other targets, or what its family is pretrained as (`mist` of `mist-property`).
    Head and scales of the targets come from the file if its targets are the same; else, and with `fitting: random`,
    the head is fresh and the scales are fitted to the training set.

    Raises:
        ConfigError: a net of another kind or size.
    """
    if store is not None:
        fitted = copy.deepcopy(target).cpu()
        fitted.fit_statistics(store)
        target.load_state_dict(fitted.state_dict())
    same = isinstance(source, PropertyNet) and source.head is not None and source.targets == target.targets
    wanted = {name: value for name, value in target.state_dict().items() if not is_adapted(name)}
    found = source.state_dict()
    of_head = [name for name in wanted if name.startswith(_OF_HEAD)]
    if not same or start.fitting == "random" or any(_shape(found, name) != _shape(wanted, name) for name in of_head):
        if same and start.fitting == "keep":
            logger.warning("%s: its head has another shape, so the head is fresh", start.weights)
        for name in of_head:
            del wanted[name]
    odd = [name for name in wanted if _shape(found, name) != _shape(wanted, name)]
    if odd:
        name = odd[0]
        raise ConfigError(
            f"{start.weights}: holds a net of the family '{source.family}', from which '{target.family}' as it is "
            f"configured can't start: {len(odd)} tensors are missing or of another shape, e.g. '{name}' is "
            f"{_shape(found, name)} there and {_shape(wanted, name)} here ('geomlib model info' shows its arguments)"
        )
    for key in target.config.keys() & source.config.keys() - _INDIFFERENT:
        if target.config[key] != source.config[key]:
            logger.warning("%s: %s is %s there, %s here", start.weights, key, source.config[key], target.config[key])
    target.load_state_dict({name: found[name] for name in wanted}, strict=False)


def _shape(state: Mapping[str, torch.Tensor], name: str) -> list[int] | None:
    return list(state[name].shape) if name in state else None


class _Source:
    """The net, or nets, of a file."""

    def __init__(self, weights: str) -> None:
        file, self.named = split_head(weights)
        self.path = str(file)
        self._net: Net | None = None
        self._of_deepmd: dict[str, DeepmdModel] = {}
        if file.suffix in _DEEPMD:
            self._of_deepmd = read_deepmd_heads(file)
            self.heads: Sequence[str] = sorted(self._of_deepmd)
            if not self.heads:
                self._net = import_deepmd(file)
        else:
            self._net = bare_net(load(file, head="*"))[0]
            self.heads = list(self._net.heads)

    def single(self, head: str | None) -> Net:
        """The net of one head, or of a file without heads.

        Raises:
            ConfigError: the head is missing or unknown.
        """
        head = head or self.named
        if not self.heads:
            if head is not None:
                raise ConfigError(f"{self.path}: holds one model without heads; leave head '{head}' out")
            assert self._net is not None
            return self._net
        known = f"it has {', '.join(self.heads)}"
        if head is None:
            raise ConfigError(f"{self.path}: holds several heads, choose one with model.head; {known}")
        if head not in self.heads:
            raise ConfigError(f"{self.path}: has no head '{head}'{nearest(head, self.heads)}; {known}")
        return build_deepmd(self._of_deepmd[head]) if self._net is None else self._net.single(head)

    def for_each(self, heads: Sequence[str], given: Heads | None) -> dict[str, str | None]:
        """Head of the net → head of the file, None for a fresh fitting net.

        Raises:
            ConfigError: a head that does not exist, or one of the net that starts nowhere.
        """
        if isinstance(given, dict):
            for head in given:
                if head not in heads:
                    raise ConfigError(
                        f"model.head names '{head}'{nearest(head, heads)}; the net has {', '.join(heads)}"
                    )
        everywhere = given if isinstance(given, str) else self.named
        chosen: dict[str, str | None] = {}
        for head in heads:
            if isinstance(given, dict) and head in given:
                chosen[head] = given[head]
            elif everywhere is not None or not self.heads:
                chosen[head] = everywhere or ""
            elif head in self.heads:
                chosen[head] = head
            else:
                raise ConfigError(
                    f"{self.path}: has no head '{head}' of the net; it has {', '.join(self.heads)}: say with "
                    f"model.head: {{{head}: NAME}} where it starts from, or with null that its fitting net is fresh"
                )
        return chosen


def _start_heads(target: MultiHeadDPA3, source: _Source, start: Start) -> dict[str, bool]:
    """Fill the heads of a net; head → whether its fitting net is that of the file."""
    chosen = source.for_each(target.heads, start.head)
    kept = {head: start.fitting == "keep" and name is not None for head, name in chosen.items()}
    names = list(dict.fromkeys(name for name in chosen.values() if name is not None))
    if target.is_shared and any(kept.values()):
        _check_shared(target, source, chosen)
    descriptor = names[0] if names else (source.heads[0] if source.heads else "")
    for head, name in chosen.items():
        given = source.single((descriptor if name is None else name) or None)
        own_code = target.is_shared and len(names) == 1
        _fill(target.single(head), given, source.path, keep_fitting=kept[head], own_code=own_code)
        if name is None:
            target.energy_bias[target.position(head)] = 0.0
    return kept


def _check_shared(target: MultiHeadDPA3, source: _Source, chosen: Mapping[str, str | None]) -> None:
    """A shared fitting net starts from one: that of one head, or the one that the file's heads share."""
    names = set(chosen.values())
    if len(names) == 1 and None not in names:
        return
    nets = {name: source.single(name) for name in names if name is not None}
    states = [net.state_dict() for net in nets.values()]
    parts = [key for key in states[0] if key.startswith("fitting.") and key != "fitting.dataset_code"]
    if (
        None in names
        or len(names) < len(chosen)
        or any(not _same_code(target, net) for net in nets.values())
        or not all(torch.equal(state[key], states[0][key]) for state in states for key in parts)
    ):
        asked = " and ".join(f"{key} {target.config[key]}" for key in _CODE)
        raise ConfigError(
            f"{source.path}: the heads of the net share their fitting net, so they all start from one head, or each "
            f"from another one of a file whose heads share theirs with {asked} too"
        )


def _same_code(target: Net, source: Net) -> bool:
    """Whether the codes of data sets enter both fitting nets in the same way."""
    return all(target.config.get(key) == source.config.get(key) for key in _CODE)


def _fill(target: Net, source: Net, path: str, *, keep_fitting: bool, own_code: bool = False) -> None:
    """Copy the tensors of `source` into `target`, whose elements and dataset code may be others."""
    if isinstance(target, DPA3) and isinstance(source, DPA3):
        odd = [key for key in target.config if key not in _FREE and target.config[key] != source.config.get(key)]
        for key in odd if keep_fitting else [key for key in odd if not key.startswith("fitting_")]:
            logger.warning("%s: %s is %s in the file, %s here", path, key, source.config.get(key), target.config[key])
        if source.elements != target.elements:
            logger.info("elements %s of %s become %s", source.elements, path, target.elements)
            source = with_elements(source, target.elements)
        if keep_fitting and (own_code or not _same_code(target, source)):
            width, biases = (target.config[key] for key in _CODE)
            source = with_code(source, width, biases=biases) if width else without_code(source)
            source.fitting.dataset_code = target.fitting.dataset_code
    state, wanted = source.state_dict(), target.state_dict()
    if not keep_fitting:
        state = {name: value for name, value in state.items() if not name.startswith("fitting.")}
        state |= {name: value for name, value in wanted.items() if name.startswith("fitting.")}
    for name in sorted(wanted.keys() | state.keys()):
        shapes = [list(tensors[name].shape) if name in tensors else None for tensors in (wanted, state)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"{path}: tensor '{name}' has shape {shapes[1]}, the configured net wants {shapes[0]}: use the net "
                "configuration of the file ('geomlib model info' shows it)"
            )
    target.load_state_dict(state)


def _with_statistics(target: Net, store: Store | None, start: Start) -> Net | None:
    """A copy on the CPU, where the graphs are, with statistics of the training set; None if nobody asks for them."""
    partly = isinstance(start.head, dict) and None in start.head.values()
    if store is None or not (start.bias == "fresh" or start.fitting == "random" or partly):
        return None
    fitted = copy.deepcopy(target).cpu()
    fitted.fit_statistics(store)
    return fitted


def _take_statistics(target: Net, fresh: Net | None, head: str, *, bias: bool, fitting: bool) -> None:
    """Take over fitted energies of the elements, and the statistics of a fresh fitting net."""
    if fresh is None:
        return
    one, other = (target.single(head), fresh.single(head)) if head else (target, fresh)
    values = dict(other.named_buffers())
    for name, buffer in one.named_buffers():
        of_fitting = name.startswith("fitting.") and name != "fitting.dataset_code"
        if (name == "energy_bias" and (bias or fitting)) or (of_fitting and fitting):
            buffer.copy_(values[name])
