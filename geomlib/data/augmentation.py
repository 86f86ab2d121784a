"""Random rotations of whole batches, as the field table says for each field, and random writings of SMILES."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.fields import FIELDS, Field
from geomlib.data.graph import GraphData
from geomlib.data.molecules import from_smiles, parse_molecule, random_smiles, to_smiles
from geomlib.errors import DataError

__all__ = ["random_rotations", "random_writing", "rotate", "rotate_field"]


def random_rotations(samples: Tensor, seed: int, epoch: int) -> Float[Tensor, "graphs 3 3"]:
    """One uniformly distributed rotation a sample, a function of `(seed, epoch, sample)` alone, float64."""
    quaternions = np.stack(
        [np.random.default_rng((seed, epoch, sample)).standard_normal(4) for sample in samples.tolist()]
    )
    w, x, y, z = torch.from_numpy(quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def rotate_field(row: Field, value: Tensor, rotation: Float[Tensor, "items 3 3"]) -> Tensor:
    """`value` of field `row` after each item was rotated by its `rotation`.

    Rows of vectors become R v; tensors of rank two R M Rᵀ; the cell, whose rows are vectors, C Rᵀ.

    Raises:
        DataError: a kind of field that can't be rotated here.
    """
    turned = rotation.to(value.dtype) if value.is_floating_point() else rotation
    if row.name == "cell":
        return value @ turned.mT
    if row.kind in ("vector", "axial"):
        return torch.einsum("nij,n...j->n...i", turned, value)
    if row.kind in ("symmetric2", "matrix33"):
        return torch.einsum("nij,n...jk,nlk->n...il", turned, value, turned)
    if row.kind in ("scalar", "pseudoscalar", "mask", "category") or row.is_index:
        return value
    raise DataError(f"field '{row.name}' of kind '{row.kind}' can't be rotated: train without augmentation")


def rotate(batch: GraphData, seed: int, epoch: int) -> None:
    """Rotate each graph of `batch` in place at random; `sample_id` must be set."""
    rotation = random_rotations(batch.sample_id, seed, epoch)
    per_level = {"graph": rotation}
    for name in list(batch.keys()):
        row = FIELDS.get(name)
        if row is None:
            continue
        if row.level == "node" and "node" not in per_level:
            per_level["node"] = rotation[batch.node_graph]
        if row.level in per_level:
            batch[name] = rotate_field(row, batch[name], per_level[row.level])
        elif row.kind not in ("scalar", "pseudoscalar", "mask", "category") and not row.is_index:
            raise DataError(f"field '{name}' at level '{row.level}' can't be rotated: train without augmentation")


def random_writing(graph: GraphData, seed: int, epoch: int, sample: int, *, kekule: bool = False) -> GraphData:
    """The same graph with every SMILES written in another way, a function of `(seed, epoch, sample)` alone.

    Args:
        graph: of text; what it holds besides stays.
        seed: of the run.
        epoch: of the run.
        sample: the graph's number in its store.
        kekule: write single and double bonds instead of aromatic ones.

    Raises:
        DataError: a SMILES that is no molecule.
    """
    state = np.random.SeedSequence((seed, epoch, sample)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
    written = from_smiles([random_smiles(parse_molecule(text), generator, kekule=kekule) for text in to_smiles(graph)])
    out = graph.clone()
    out.smiles, out.character_component = written.smiles, written.character_component
    return out
