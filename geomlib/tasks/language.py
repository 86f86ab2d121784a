"""`LanguageTask`: pretraining on hidden tokens, and on descriptors beside them."""

import math
from collections.abc import Mapping
from itertools import islice

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from geomlib.data.descriptors import calculate_descriptors
from geomlib.data.graph import GraphData
from geomlib.data.memo import Memo
from geomlib.data.molecules import parse_molecule, to_smiles
from geomlib.errors import ConfigError, DataError
from geomlib.files.manifest import bare_net
from geomlib.files.modelfile import load
from geomlib.graphs.tokens import SmilesTokens
from geomlib.models.base import Net
from geomlib.models.mist.net import MIST
from geomlib.tasks.base import Task
from geomlib.tasks.meters import Meter
from geomlib.tasks.schedule import Schedule
from geomlib.tasks.terms import Term

__all__ = ["LanguageTask"]

_FREE = ("dropout", "attention_dropout", "recompute")
"""Arguments in which a file to start from and the net may differ."""

_TOKENS, _HITS, _DESCRIPTORS = "token_label", "token_hit", "descriptors"


class LanguageTask(Task):
    """Trains a `MIST` to say which tokens were hidden from it.

    loss = mean over the chosen tokens of −ln p(id) + `descriptor_weight` · mean squared error of the standardised
    descriptors, both means over the global batch. Batches carry `token_label`, −100 where a token was not chosen, as
    a `TextDataModule` makes them. Logits are made for the chosen tokens alone.

    Reports loss, accuracy and perplexity of the chosen tokens, and `descriptor_mse`.

    Args:
        net: a MIST.
        optimizer: makes the optimizer from parameters.
        schedule: of the learning rate, per step; constant if not given.
        descriptor_weight: of the second objective; needs `descriptors` of the net. Descriptors that a batch does not
            carry are calculated from its `smiles`, or from the text that its tokens stand for.
        statistics_batches: training batches from which mean and deviation of the descriptors are taken.
        decay_vectors: whether biases and LayerNorms have weight decay like matrices.
        weights: model file or checkpoint to start from.
        freeze: names of parts or parameters that are not trained.
        learning_rates: name of a part → factor of its learning rate.

    Raises:
        ConfigError: a net that is no MIST, or a weight for descriptors that the net does not predict.
    """

    def __init__(
        self,
        net: Net,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1.6e-4, weight_decay=0.01),
        schedule: Schedule | None = None,
        descriptor_weight: float = 0.0,
        statistics_batches: int = 20,
        decay_vectors: bool = False,
        weights: str | None = None,
        freeze: list[str] | None = None,
        learning_rates: dict[str, float] | None = None,
    ) -> None:
        if not isinstance(net, MIST):
            raise ConfigError(f"LanguageTask trains a MIST, not a {type(net).__name__}")
        if descriptor_weight < 0 or statistics_batches < 1:
            raise ConfigError(
                f"descriptor_weight {descriptor_weight} and statistics_batches {statistics_batches}: expected a weight "
                "that is not negative and at least one batch"
            )
        if bool(net.descriptor_names) != bool(descriptor_weight):
            raise ConfigError(
                f"descriptor_weight is {descriptor_weight:g}, but the net predicts {len(net.descriptor_names)} "
                "descriptors: set both model.net.descriptors and model.descriptor_weight, or neither"
            )
        self.descriptor_weight, self.statistics_batches = descriptor_weight, statistics_batches
        terms = [Term(_TOKENS)] + ([Term(_DESCRIPTORS, weight=descriptor_weight)] if descriptor_weight else [])
        super().__init__(
            net,
            terms,
            optimizer,
            schedule,
            decay_vectors,
            weights=weights,
            freeze=freeze or (),
            learning_rates=learning_rates,
        )
        self._described = Memo(self._calculate)

    @property
    def mist(self) -> MIST:
        """The net."""
        net, _ = bare_net(self.net)
        assert isinstance(net, MIST)
        return net

    # ---------------------------------------------------------------- data

    def setup(self, stage: str) -> None:
        """Start the sums; labels are made with the batches, so there is nothing to look for in a store."""
        self._make_meters()
        if stage == "fit" and getattr(getattr(self.trainer, "datamodule", None), "val", "") is None:
            self.trainer.limit_val_batches = 0  # Lightning would warn that the validation set is empty

    def on_fit_start(self) -> None:
        """On a fresh fit standardise the descriptors, or take everything from a model file."""
        if self.trainer.ckpt_path:
            return
        if self.start is not None:
            self._start_from(self.start.weights)
        elif self.descriptor_weight:
            loader = getattr(self.trainer, "datamodule", None)
            if loader is None:
                raise ConfigError("descriptors are standardised with the data module's batches: pass one to the fit")
            batches = list(islice(iter(loader.train_dataloader()), self.statistics_batches))
            self.mist.normalizer.fit(self._descriptors(batch).cpu() for batch in batches)

    def _start_from(self, weights: str) -> None:
        source, _ = bare_net(load(weights))
        if not isinstance(source, MIST):
            raise ConfigError(f"{weights}: holds a net of the family {source.family}, not a MIST")
        own, found = ({**net.config, **dict.fromkeys(_FREE)} for net in (self.mist, source))
        for name in own:
            if own[name] != found[name]:
                raise ConfigError(f"{weights}: has {name} {found[name]!r}, the net to be trained {own[name]!r}")
        self.mist.load_state_dict(source.state_dict())

    def _descriptors(self, batch: GraphData) -> Tensor:
        if _DESCRIPTORS not in batch:
            texts = to_smiles(batch) if "smiles" in batch else _written(batch, self.mist.spec.find(SmilesTokens))
            batch.descriptors = torch.stack([self._described(text) for text in texts]).to(batch.token_id.device)
        return batch.descriptors

    def _calculate(self, smiles: str) -> Tensor:
        return torch.from_numpy(calculate_descriptors(parse_molecule(smiles), self.mist.descriptor_names)).float()

    # ---------------------------------------------------------------- steps

    def _step(self, batch: GraphData, stage: str) -> tuple[Tensor, dict[str, Tensor]]:
        if _TOKENS not in batch:
            raise DataError("the batch has no 'token_label', so no token is hidden: use a data module that masks")
        net = self.mist
        hidden = net.encode(batch)
        chosen = (batch.token_label >= 0).nonzero().squeeze(1)
        labels = batch.token_label.index_select(0, chosen)
        logits = _widened(net.logits(hidden.index_select(0, chosen)))
        sums = [F.cross_entropy(logits, labels, reduction="sum")]
        counts = [float(len(chosen))]
        if self.descriptor_weight:
            wanted = _widened(net.normalizer(self._descriptors(batch).to(hidden.device)))
            sums.append(F.mse_loss(_widened(net.described(hidden, batch)), wanted, reduction="sum"))
            counts.append(float(wanted.numel()))
        hits = (logits.detach().argmax(1) == labels).sum()
        return self._loss(torch.stack(sums), counts, hits, batch, stage), {}

    def _loss(self, sums: Tensor, counts: list[float], hits: Tensor, batch: GraphData, stage: str) -> Tensor:
        world = self.trainer.world_size
        number = sums.new_tensor(counts)
        reported = torch.stack([torch.cat([sums.detach(), hits.view(1).to(sums)]), torch.cat([number, number[:1]])])
        names = [*self.objectives[0].fields, _HITS]
        zero = sums.new_zeros(())
        for k, name in enumerate(names):
            self._meters[stage].add_sums(name, torch.stack([reported[0, k], zero, reported[1, k]]).double())
        if world > 1 and stage == "train":
            torch.distributed.all_reduce(reported)
        everywhere = reported[1].clamp_min(1.0)
        means = reported[0] / everywhere
        if not bool(torch.isfinite(means).all()):
            raise DataError(
                f"step {self.global_step}: the loss is not finite; a lower learning rate, gradient clipping or a "
                "longer warm-up may help"
            )
        weights = sums.new_tensor([term.weight for term in self.objectives[0].terms])
        if stage == "train":
            logged = {"train/loss": (weights * means[:-1]).sum(), "train/accuracy": means[-1]}
            self.log_dict(logged, on_step=True, on_epoch=False, batch_size=batch.num_graphs)
        return world * (weights * sums / everywhere[:-1]).sum()

    def _steps_per_epoch(self) -> int:
        if self._data() is not None:
            return super()._steps_per_epoch()
        data, limit = getattr(self.trainer, "datamodule", None), self.trainer.limit_train_batches
        batches = getattr(data, "steps_per_epoch", None)
        if batches is None:
            loader = None if data is None else data.train_dataloader()
            if loader is None or not hasattr(loader, "__len__"):
                raise ConfigError("how long an epoch of streamed text is can't be known: set trainer.max_steps")
            batches = len(loader)
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return math.ceil(batches / self.trainer.accumulate_grad_batches)

    # ---------------------------------------------------------------- epochs

    def _make_meters(self) -> None:
        names = [*self.objectives[0].fields, _HITS]
        self._meters = {stage: Meter(names) for stage in ("train", "val", "test")}

    def epoch_metrics(self, stage: str, *, local: bool = False) -> dict[str, float]:
        """Loss, accuracy and perplexity of the chosen tokens over the epoch so far, and `descriptor_mse`.

        Args:
            stage: train, val or test.
            local: of this process only, without waiting for the others.
        """
        means = {name: pair[0] for name, pair in self._meters[stage].means(local=local).items()}
        if _TOKENS not in means:
            return {}
        loss = means[_TOKENS]
        out = {"accuracy": means[_HITS], "perplexity": math.exp(min(loss, 80.0)), "token_loss": loss}
        if _DESCRIPTORS in means:
            out["descriptor_mse"] = means[_DESCRIPTORS]
            loss += self.descriptor_weight * means[_DESCRIPTORS]
        return {f"{stage}/{name}": value for name, value in {**out, "loss": loss}.items()}

    @property
    def monitor(self) -> str:
        """Validation metric whose minimum is the best model."""
        return "val/loss"

    def metric_unit(self, name: str) -> str:
        """Nothing here has a unit."""
        return ""

    def progress(self, metrics: Mapping[str, float], stage: str) -> dict[str, str]:
        """Loss and accuracy."""
        names = {"loss": "{:.3f}", "accuracy": "{:.1%}", "descriptor_mse": "{:.3f}"}
        return {
            name: form.format(metrics[f"{stage}/{name}"])
            for name, form in names.items()
            if f"{stage}/{name}" in metrics
        }


def _written(batch: GraphData, builder: SmilesTokens | None) -> list[str]:
    """The molecules as text, from their tokens as they were before some were hidden."""
    ids = torch.where(batch.token_label >= 0, batch.token_label, batch.token_id).tolist()
    lengths = torch.bincount(batch.token_component, minlength=batch.count("component")).tolist()
    rows, builder = iter(ids), builder or SmilesTokens()
    return [builder.read(islice(rows, length)) for length in lengths]


def _widened(values: Tensor) -> Tensor:
    """In float32 at least, in which losses are summed."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
