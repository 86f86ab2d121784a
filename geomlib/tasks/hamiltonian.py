"""`HamiltonianTask`: nets that predict Kohn-Sham matrices."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.theory import check_theory, plain_basis, plain_functional
from geomlib.errors import ConfigError
from geomlib.files.checkpoint import checkpoint_manifest
from geomlib.files.construct import current_config
from geomlib.files.header import split_head
from geomlib.files.manifest import bare_net
from geomlib.files.modelfile import read_manifest
from geomlib.models.base import Net
from geomlib.models.sphnet.compaction import carry_over
from geomlib.models.sphnet.net import SPHNet
from geomlib.nn.orbitals import Orbitals, compare_orbitals, generalised_eigenproblem
from geomlib.tasks.base import Task
from geomlib.tasks.hamiltonian_terms import HamiltonianTerm
from geomlib.tasks.matrices import matrix_stacks, occupied_orbitals
from geomlib.tasks.meters import Meter
from geomlib.tasks.schedule import Schedule

__all__ = ["HamiltonianTask"]

logger = logging.getLogger(__name__)

_MICRO = 1e6
_ORBITAL_METRICS = ("occupied", "homo", "lumo", "gap", "cosine", "subspace")


class HamiltonianTask(Task):
    """Train a net on Kohn-Sham matrices.

    The loss is the sum of mean absolute and mean square error over all entries of the matrices unless other terms are
    given (`geomlib.tasks.hamiltonian_terms`: blocks, wavefunction alignment). Where the data hold overlaps, the test
    also compares the orbitals of both matrices: errors of occupied, HOMO and LUMO energies and of the gap [Hartree],
    |cos| of coefficients and the overlap of the occupied spaces.

    The functional and basis set that the stores and a checkpoint say have to be those of the net, in a fit, a test and
    a prediction (`geomlib.data.theory`); a store that doesn't say is named once in the log. A fit may start from a file
    of another functional, which is logged, not of another basis set.

    Args:
        net: predicts `hamiltonian`.
        terms: of the loss.
        optimizer: makes the optimizer from parameters.
        schedule: of the learning rate; constant if not given.
        decay_vectors: whether biases and other vectors have weight decay like matrices.
        weights: model file or checkpoint to start from.
        freeze: names of parts or parameters that are not trained.
        learning_rates: name of a part → factor of its learning rate.
    """

    def __init__(
        self,
        net: Net,
        terms: list[HamiltonianTerm] | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.0),
        schedule: Schedule | None = None,
        decay_vectors: bool = True,
        weights: str | None = None,
        freeze: list[str] | None = None,
        learning_rates: dict[str, float] | None = None,
    ) -> None:
        chosen = [HamiltonianTerm(loss="mae"), HamiltonianTerm(loss="mse")] if terms is None else terms
        super().__init__(
            net,
            chosen,
            optimizer,
            schedule,
            decay_vectors,
            weights=weights,
            freeze=freeze or (),
            learning_rates=learning_rates,
        )
        self._orbitals = Meter(_ORBITAL_METRICS)
        self._said: set[str] = set()

    # ---------------------------------------------------------------- functional and basis set

    @property
    def _theory(self) -> tuple[str, str] | None:
        """Basis set and functional of the net; None where its configuration has no such words."""
        config: Mapping[str, Any] = bare_net(self.net)[0].config
        return (config["basis"], config["functional"]) if {"basis", "functional"} <= config.keys() else None

    def _check_data(self) -> None:
        data = self._data()
        if data is None or self._theory is None:
            return
        stores = [store for store in (data.store, data.val_store, data.test_store) if store is not None]
        for line in dict.fromkeys(line for store in stores for line in check_theory(store, *self._theory)):
            if line not in self._said:
                logger.warning(line)
                self._said.add(line)

    def _differences(self, manifest: Mapping[str, Any]) -> dict[str, str]:
        """What is other in the net of a file, `basis` or `functional`, and words that say so."""
        theirs = manifest.get("config", {})
        if self._theory is None or not {"basis", "functional"} <= theirs.keys():
            return {}  # another family, which is refused when its weights are taken
        rows = zip(("basis", "functional"), (plain_basis, plain_functional), self._theory, strict=True)
        return {
            what: f"its net has the {what} '{theirs[what]}', the configured one '{own}'"
            for what, plain, own in rows
            if plain(theirs[what]) != plain(own)
        }

    def _check_start(self, manifest: Mapping[str, Any], where: str) -> None:
        differences = self._differences(manifest)
        if "basis" in differences:
            raise ConfigError(f"{where}: {differences['basis']}")
        if differences:
            logger.warning("%s: %s", where, differences["functional"])

    def _check_checkpoint(self, manifest: Mapping[str, Any]) -> None:
        for what, words in self._differences(manifest).items():
            raise ConfigError(
                f"the checkpoint: {words}: set model.net.{what}; to learn another functional, start a fit with "
                "model.weights"
            )

    # ---------------------------------------------------------------- paths that are gone

    def setup(self, stage: str) -> None:
        """As of every task; a net that starts from a file without the paths it left out has no others either.

        Raises:
            ConfigError: the matrices of a store were made with another functional or basis set than that of the net, or
                the file to start from is of another basis set.
        """
        super().setup(stage)
        self._check_data()
        if self.start is not None and stage == "fit" and not self.trainer.ckpt_path:
            file, _ = split_head(self.start.weights)
            if file.suffix in (".safetensors", ".ckpt"):
                manifest = (checkpoint_manifest if file.suffix == ".ckpt" else read_manifest)(file)
                self._check_start(manifest, str(file))
                self.take_shape_of(manifest)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As of every task; paths that are gone in the checkpoint are gone here before its weights come."""
        super().on_load_checkpoint(checkpoint)
        self._check_checkpoint(checkpoint.get("geomlib", {}))
        self.take_shape_of(checkpoint.get("geomlib", {}))

    def take_shape_of(self, manifest: Mapping[str, Any]) -> None:
        """Take away the paths that are gone in another net."""
        if not isinstance(self.net, SPHNet) or manifest.get("family") != self.net.family:
            return
        config = current_config(dict(manifest), "the other net")
        # with other irreps the numbers are those of other paths, and the weights will not fit either
        same = config["pair_irreps"] == self.net.config["pair_irreps"]
        if config["kept_paths"] and same and self.net.config["kept_paths"] is None:
            for net in (self.net, *self._averages()):
                net.keep_paths(config["kept_paths"])

    def on_train_batch_start(self, batch: GraphData, batch_idx: int) -> None:
        """As of every task; when paths are chosen for good, the others go, here and in optimizer and averages."""
        super().on_train_batch_start(batch, batch_idx)
        if isinstance(self.net, SPHNet) and self.net.can_compact:
            carry_over(self.trainer.optimizers[0], self.net.compact())
            for average in self._averages():
                average.keep_paths(self.net.config["kept_paths"])
            strategy = self.trainer.strategy
            if isinstance(strategy, DDPStrategy):  # it knows the old parameters
                strategy.model = self
                strategy.configure_ddp()

    def _averages(self) -> list[SPHNet]:
        """Averaged copies of the net that callbacks hold."""
        if self._trainer is None:
            return []
        callbacks = (row for row in self.trainer.callbacks if isinstance(row, WeightAveraging))  # type: ignore[attr-defined]
        models = (callback._average_model for callback in callbacks)
        return [cast(SPHNet, cast(Task, model.module).net) for model in models if model is not None]

    # ---------------------------------------------------------------- orbitals

    def on_test_epoch_start(self) -> None:
        """Start the epoch's sums."""
        super().on_test_epoch_start()
        self._orbitals.reset()

    def test_step(self, batch: GraphData, batch_idx: int) -> dict[str, Tensor]:
        """Errors of a batch and of its orbitals; returns the predictions."""
        outputs = super().test_step(batch, batch_idx)
        if "overlap" in batch:
            numbers = _numbers(batch)
            charges = batch.charge.tolist() if "charge" in batch else [0] * batch.num_graphs
            stacks = matrix_stacks(batch, outputs["hamiltonian"], batch.hamiltonian, batch.overlap)
            for members, (predicted, true, overlap) in stacks:
                of_both = generalised_eigenproblem(predicted, overlap), generalised_eigenproblem(true, overlap)
                for row, number in enumerate(members.tolist()):
                    mine, theirs = (Orbitals(found.energies[row], found.coefficients[row]) for found in of_both)
                    occupied = occupied_orbitals(numbers[number], charges[number])
                    errors = compare_orbitals(mine, theirs, overlap[row], occupied)
                    for name in _ORBITAL_METRICS:
                        self._orbitals.add(name, getattr(errors, name).reshape(-1))
        return outputs

    def epoch_metrics(self, stage: str, *, local: bool = False) -> dict[str, float]:
        """As of every task, and at the test those of orbitals."""
        metrics = super().epoch_metrics(stage, local=local)
        if stage == "test":
            means = self._orbitals.means(local=local)
            for name, (mean, rmse) in means.items():
                if name in ("cosine", "subspace"):
                    metrics[f"test/orbital_{name}"] = mean
                else:
                    metrics[f"test/{name}_energy_mae"], metrics[f"test/{name}_energy_rmse"] = mean, rmse
        return metrics

    def metric_unit(self, name: str) -> str:
        """Unit in which errors of a field or of orbital energies are reported."""
        if name == "orbital":  # overlaps of orbitals
            return ""
        return "Hartree" if name.removesuffix("_energy") in _ORBITAL_METRICS else super().metric_unit(name)

    def progress(self, metrics: Mapping[str, float], stage: str) -> dict[str, str]:
        """MAE of the matrix."""
        name = f"{stage}/hamiltonian_mae"
        return {"H": f"{_MICRO * metrics[name]:.1f} µHartree"} if name in metrics else {}

    def mean_predictor(self, train: Iterable[GraphData], test: Iterable[GraphData]) -> dict[str, float]:
        """Errors of the matrix of the initial density, where the data hold it: what a net has to add to."""
        sums = torch.zeros(3, dtype=torch.float64)
        for graph in test:
            if "initial_hamiltonian" not in graph:
                return {}
            error = graph.initial_hamiltonian - graph.hamiltonian
            sums += torch.stack([error.abs().sum(), error.square().sum(), error.new_tensor(float(len(error)))])
        if not sums[2]:
            return {}
        return {"hamiltonian_mae": float(sums[0] / sums[2]), "hamiltonian_rmse": float((sums[1] / sums[2]).sqrt())}


def _numbers(batch: GraphData) -> list[Tensor]:
    counts = torch.bincount(batch.node_graph, minlength=batch.num_graphs).tolist()
    return list(batch.atomic_number.split(counts))
