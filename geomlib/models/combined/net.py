"""CombinedNet: the embeddings of several nets, and descriptors, under one head."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.data.stores import Store
from geomlib.errors import ConfigError, DataError
from geomlib.graphs.builder import Builder
from geomlib.graphs.molecule import Descriptors
from geomlib.graphs.spec import GraphSpec
from geomlib.models import family
from geomlib.models.base import Net
from geomlib.models.property import PropertyNet
from geomlib.nn.descriptors import DescriptorNormalizer
from geomlib.nn.mixture import mix

__all__ = ["CombinedNet"]


class CombinedNet(PropertyNet):
    """Properties from what several nets see in a molecule or mixture, and from descriptors.

        z = [LayerNorm(e_1), LayerNorm(e_2), …, standardised descriptors],  target = head(z)

    with e_k the embedding of member k (what its own head would get). All learn together; `freeze: [members.NAME]` of
    the task keeps one as it is, and `take_members` starts them from nets that were trained alone. The structure that
    the net needs is that of all its members.

    Args:
        targets: as of every net of properties.
        members: name → `family` (e.g. `dmpnn`) and the arguments of that family without `targets`.
        descriptors: what to append: `rdkit`, `ecfp`, names of descriptors, or nothing.
        descriptor_dropout: probability that a descriptor is left out in training.
        descriptor_bound: standardised descriptors are cut off at ± this.
        fingerprint_size: columns of `ecfp`.
        normalize: bring every embedding to mean 0 and variance 1 over its channels, with trainable scale and shift.
        head_layers: hidden widths of the head.
        dropout: in the head.
        head: `plain` or `residual`.

    Inputs (batch fields): those of the members; `descriptors`, where there are some
    Returns: target [graphs, targets] in natural units or as probabilities, target_raw [graphs, targets]

    Raises:
        ConfigError: nothing to combine, a member that is no net of properties, or two that want different structure.
    """

    family = "combined"
    family_version = 1
    outputs: tuple[str, ...] = ("target", "target_raw")

    def __init__(
        self,
        targets: list[str | dict[str, Any]],
        members: dict[str, dict[str, Any]] | None = None,
        *,
        descriptors: str | list[str] | None = None,
        descriptor_dropout: float = 0.0,
        descriptor_bound: float = 5.0,
        fingerprint_size: int = 2048,
        normalize: bool = True,
        head_layers: list[int] = [300],  # noqa: B006 - copied into config, never changed
        dropout: float = 0.0,
        head: str = "plain",
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config = {name: copy.deepcopy(value) for name, value in arguments.items()}
        members = members or {}
        if not members and not descriptors:
            raise ConfigError("there is nothing to combine: name members, descriptors, or both")
        nets = {name: _member(name, row, targets) for name, row in members.items()}
        self.members = nn.ModuleDict(nets)
        widths = [member.embedding_width for member in nets.values()]
        self.started: set[str] = set()
        self.norms = nn.ModuleDict(
            {
                name: nn.LayerNorm(width) if normalize else nn.Identity()
                for name, width in zip(members, widths, strict=True)
            }
        )
        specs: dict[str, GraphSpec] = {name: member.spec for name, member in nets.items()}
        self.descriptor_normalizer: DescriptorNormalizer | None = None
        if descriptors:
            columns = Descriptors(
                descriptors if isinstance(descriptors, str) else tuple(descriptors), size=fingerprint_size
            )
            specs["the descriptors"] = GraphSpec((columns,))
            self.descriptor_normalizer = DescriptorNormalizer(columns.width, descriptor_bound)
            widths.append(columns.width)
        self.descriptor_dropout = nn.Dropout(descriptor_dropout)
        self.spec = _joined(specs)
        own = ("smiles", "character_component", "component_graph")
        self.inputs = tuple(dict.fromkeys([*own, *(field for member in nets.values() for field in member.inputs)]))
        self.set_head(sum(widths), targets, head_layers=head_layers, dropout=dropout, head=head)

    def _nets(self) -> list[tuple[str, PropertyNet]]:
        return [(name, cast(PropertyNet, member)) for name, member in self.members.items()]

    def embed(self, batch: GraphData) -> Float[Tensor, "graphs width"]:
        """Embeddings of the members one after the other, then descriptors."""
        parts = [self.norms[name](member.embed(batch)) for name, member in self._nets()]
        if self.descriptor_normalizer is not None:
            descriptors = self.descriptor_dropout(self.descriptor_normalizer(batch.descriptors))
            parts.append(mix(descriptors, batch))
        return torch.cat(parts, dim=1)

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Fit the normaliser of the targets, that of the descriptors, and whatever the members have.

        Raises:
            DataError: a SMILES that is no molecule.
        """
        kept = graphs if isinstance(graphs, Store) else list(graphs)  # they are read several times
        super().fit_statistics(kept)
        for name, member in self._nets():
            if name not in self.started:  # what it learned goes with the statistics that it learned with
                member.fit_statistics(kept)
        columns = self.spec.find(Descriptors)
        if self.descriptor_normalizer is not None and columns is not None:
            self.descriptor_normalizer.fit(columns.rows(kept))

    def take_members(self, nets: Mapping[str, Net]) -> None:
        """Start members from nets that were trained before: all of them but what belongs to their own head.

        Args:
            nets: name of a member → a net that holds its tensors by the same names: of the same family and size, with
                other targets perhaps, or the one that its family is pretrained as (`mist` of `mist-property`).

        Raises:
            ConfigError: there is no such member.
            DataError: the net lacks tensors of the member, or has them in other shapes.
        """
        members = dict(self._nets())
        for name, net in nets.items():
            if name not in members:
                raise ConfigError(f"there is no member '{name}'; the net has {', '.join(members) or 'none'}")
            own, theirs = _embedding_state(members[name]), net.state_dict()
            odd = [key for key, value in own.items() if key not in theirs or theirs[key].shape != value.shape]
            if odd:
                raise DataError(
                    f"member '{name}' ({members[name].family}) can't start from that net ({net.family}): "
                    f"{len(odd)} tensors are missing or of another shape, e.g. '{odd[0]}'; give the member the "
                    f"arguments of that net: {net.config}"
                )
            members[name].load_state_dict({key: theirs[key] for key in own}, strict=False)
            self.started.add(name)


def _member(name: str, row: Mapping[str, Any], targets: list[str | dict[str, Any]]) -> PropertyNet:
    if "family" not in row:
        raise ConfigError(f"member '{name}' names no family, such as dmpnn")
    arguments = {key: copy.deepcopy(value) for key, value in row.items() if key != "family"}
    if "targets" in arguments:
        raise ConfigError(f"member '{name}' has no targets of its own: they are those of the whole net")
    kind = family(row["family"])
    if not issubclass(kind, PropertyNet):
        raise ConfigError(f"member '{name}': family '{row['family']}' gives no embedding of molecules")
    net = kind(copy.deepcopy(targets), **arguments)
    net.remove_head()
    return net


def _joined(specs: Mapping[str, GraphSpec]) -> GraphSpec:
    """All builders, each once.

    Raises:
        ConfigError: two builders that set the same field in different ways.
    """
    owners: dict[str, tuple[str, Builder]] = {}
    builders: list[Builder] = []
    for name, spec in specs.items():
        for builder in spec.builders:
            if builder in builders:
                continue
            for field in builder.provides:
                if field in owners:
                    other, first = owners[field]
                    raise ConfigError(
                        f"'{name}' and '{other}' want '{field}' in different ways ({builder} and {first}): "
                        "give both the same options"
                    )
                owners[field] = (name, builder)
            builders.append(builder)
    return GraphSpec(tuple(builders))


def _embedding_state(net: Net) -> dict[str, Tensor]:
    """Tensors of a net but those of its head and its targets."""
    own = ("head.", "normalizer.")
    return {name: value for name, value in net.state_dict().items() if not name.startswith(own)}
