"""Recipes and command line of training: Lightning's parser, with geomlib's classes, folders and rules.

A recipe has the keys `seed_everything`, `model`, `data` and `trainer`. Several `-c` merge from left to right, and
what is typed after them holds over them, also when a run is resumed. The net owns its cutoffs and whatever else the
data needs to know, so nothing is linked and nothing is written twice.
"""

import argparse
import hashlib
import importlib.util
import logging
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

import geomlib.data
import geomlib.tasks
from geomlib.data.splits import Split
from geomlib.data.stores import Store
from geomlib.errors import ConfigError, FileFormatError, GeomlibError, nearest
from geomlib.files.checkpoint import read_checkpoint
from geomlib.files.construct import current_config
from geomlib.files.manifest import bare_net
from geomlib.models import FAMILIES, family
from geomlib.models.base import Net
from geomlib.tasks.base import Task
from geomlib.tasks.schedule import Schedule
from geomlib.training import callbacks_pretraining as callbacks_pretraining  # so that each can be named in a recipe
from geomlib.training import schedules as schedules
from geomlib.training import thawing as thawing
from geomlib.training.callbacks import EMA, Checkpoints, Progress
from geomlib.training.lamb import LAMB as LAMB
from geomlib.training.messages import complaint
from geomlib.training.outputs import ModelFile, Predictions

__all__ = ["VERBS", "GeomlibCLI", "run_name", "run_verb"]

logger = logging.getLogger(__name__)

VERBS = {
    "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
    "validate": {"model", "dataloaders", "datamodule"},
    "test": {"model", "dataloaders", "datamodule"},
    "predict": {"model", "dataloaders", "datamodule", "return_predictions"},
}
"""Verb → arguments of the trainer's method that no one types."""


def _import_offered() -> None:
    """Import what `geomlib.data` and `geomlib.tasks` offer, so that a recipe can name it without a path."""
    for package in (geomlib.data, geomlib.tasks):
        for name in package.__all__:
            getattr(package, name)


_import_offered()

TRAINER_DEFAULTS = {
    "inference_mode": False,  # forces are derivatives, in validation too
    "use_distributed_sampler": False,  # the data module has its own, which neither pads nor repeats
    "enable_model_summary": False,
    "log_every_n_steps": 10,
}


RECIPE_KEYS = ("seed_everything", "model", "data", "trainer")


class _SaveConfig(SaveConfigCallback):
    """Writes the merged recipe into the run folder, without what concerned this one call."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace) -> None:
        super().__init__(parser, Namespace({key: config[key] for key in RECIPE_KEYS}), overwrite=True)


class GeomlibCLI(LightningCLI):
    """Lightning's command line for one verb.

    Args:
        verb: one of `VERBS`.
        argv: the words after the verb.
    """

    def __init__(self, verb: str, argv: Sequence[str]) -> None:
        self.verb = verb
        self.files = _config_files(argv)
        self.model_file: ModelFile | None = None
        self.predictions: Predictions | None = None
        super().__init__(
            model_class=Task,
            datamodule_class=LightningDataModule,
            save_config_callback=None,
            trainer_defaults=dict(TRAINER_DEFAULTS),
            seed_everything_default=0,
            parser_kwargs={
                verb: {"exit_on_error": False, "allow_abbrev": False},
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=[verb, *argv],
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # ---------------------------------------------------------------- parsing

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # only the verb at hand, built three times faster
        """The verb and its untyped arguments."""
        return {self.verb: VERBS[self.verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Where a run goes and what it continues."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="name of the run; that of the recipe if not given"
        )
        parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
        parser.add_argument(
            "--folder", type=str | None, default=None, help="exact run folder, instead of RUNS/NAME/version_N"
        )
        if self.verb == "fit":
            parser.add_argument(
                "--resume",
                type=str | None,
                default=None,
                help="checkpoint to continue from, or 'auto': the latest of NAME",
            )
            parser.add_argument("--reset_optimizer", type=bool, default=False, help="on resuming, drop the moments")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # the table at the end says it better
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and turn the parser's complaint into one line."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*args parameter is intended.*")
                self.config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            options = [action.dest for action in self._subcommand_parsers[self.verb]._actions]
            raise complaint(str(error), args[1:], self.files, _class_names(), options) from None

    def _parse_ckpt_path(self) -> None:
        """Nothing in a checkpoint overrides what was typed."""

    # ---------------------------------------------------------------- rules

    def before_instantiate_classes(self) -> None:
        """Settle folders, checkpoint and the settings of the trainer that geomlib decides."""
        config = self.config[self.verb]
        trainer = config.trainer
        if trainer.inference_mode:
            raise ConfigError(
                "trainer.inference_mode must stay false: forces are derivatives, in validation and test too"
            )
        if trainer.strategy in ("auto", "ddp") and _many(trainer):
            # a loss on forces alone leaves the last bias, and every net leaves what feeds no output, without gradient
            trainer.strategy = "ddp_find_unused_parameters_true"
        if config.name is None:
            config.name = run_name(self.files)
        if self.verb == "fit":
            config.ckpt_path = self._checkpoint(config)
        config.weights_only = True
        if config.get("ckpt_path") is not None:
            config.ckpt_path = str(Path(config.ckpt_path))
        if self.verb != "fit":
            self._run_of_checkpoint(config)

    def _checkpoint(self, config: Namespace) -> str | None:
        if config.resume is not None and config.ckpt_path is not None:
            raise ConfigError("give --resume or --ckpt_path, not both")
        path: str | None = config.ckpt_path if config.resume is None else config.resume
        if path != "auto":
            return path
        root = Path(config.folder) if config.folder else Path(config.runs) / config.name
        found = sorted(root.glob("**/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
        if not found:
            logger.warning("no checkpoint below %s to resume from: the fit starts afresh", root)
            return None
        return str(found[-1])

    def _run_of_checkpoint(self, config: Namespace) -> None:
        """Put what a test writes beside the checkpoint that it tests."""
        if config.ckpt_path is None:
            raise ConfigError(
                f"'{self.verb}' needs weights: name a run folder ('geomlib {self.verb} runs/NAME/version_N') or a "
                "checkpoint (--ckpt_path); 'geomlib evaluate' takes model files"
            )
        file = Path(config.ckpt_path)
        if config.folder is None:
            config.folder = str(file.parent.parent if file.parent.name == "checkpoints" else file.parent)
        config.trainer.default_root_dir = config.folder
        config.trainer.logger = False

    # ---------------------------------------------------------------- trainer

    def instantiate_classes(self) -> None:
        """Build task, data and trainer; check the checkpoint against the task."""
        try:
            super().instantiate_classes()
        except MisconfigurationException as error:
            raise ConfigError(" ".join(str(error).split())) from None
        except (ValueError, TypeError, argparse.ArgumentError) as error:
            # the parser wraps what a constructor raises in layers of its own
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, GeomlibError):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                raise
            raise cause from None
        config = self.config[self.verb]
        if config.get("ckpt_path") is not None:
            _check_checkpoint(config.ckpt_path, self.model)
        if self.verb == "fit":
            self.model.reset_optimizer = bool(config.reset_optimizer)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with geomlib's loggers and callbacks where the recipe names none of their kind."""
        config: dict[str, Any] = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        callbacks = config.pop("callbacks") or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if config["enable_checkpointing"] is not False and not any(isinstance(row, Checkpoints) for row in callbacks):
            callbacks.append(Checkpoints())
        if self.verb == "fit":
            if config["logger"] is None or config["logger"] is True:
                config["logger"] = self._loggers(self.config[self.verb])
            self._add_fit_callbacks(callbacks, config)
        elif self.verb != "validate":
            self.predictions = Predictions()
            callbacks.append(self.predictions)
        if config["enable_progress_bar"] is not False and not any(isinstance(row, ProgressBar) for row in callbacks):
            callbacks.append(Progress())
        return Trainer(callbacks=callbacks, **config)

    def _add_fit_callbacks(self, callbacks: list[Callback], config: dict[str, Any]) -> None:
        if config["logger"] and not any(isinstance(row, LearningRateMonitor) for row in callbacks):
            callbacks.append(LearningRateMonitor(logging_interval="step"))
        self.model_file = ModelFile(_provenance(self.files))
        callbacks.append(self.model_file)
        if not config["fast_dev_run"]:
            callbacks.append(_SaveConfig(self._parser(self.verb), self.config[self.verb]))

    def _loggers(self, config: Namespace) -> list[Logger]:
        if config.folder is not None:
            folder = Path(config.folder)
            if (folder / "metrics.csv").exists():
                raise ConfigError(f"--folder {folder}: already holds a run; name another one")
            where: dict[str, Any] = {"save_dir": str(folder), "name": "", "version": ""}
        else:
            where = {"save_dir": config.runs, "name": config.name}
        csv = CSVLogger(**where, flush_logs_every_n_steps=20)
        where["version"] = csv.version
        loggers: list[Logger] = [csv]
        if importlib.util.find_spec("tensorboard") is not None:
            loggers.append(TensorBoardLogger(**where, default_hp_metric=False))
        return loggers


def run_verb(verb: str, argv: Sequence[str], *, verbose: bool = False) -> GeomlibCLI:
    """Carry out a verb and return what it left behind (`trainer`, `model`, `model_file`, `predictions`).

    Args:
        verb: one of `VERBS`.
        argv: the words after it.
        verbose: let Lightning talk, too.

    Raises:
        ConfigError: a recipe or a command line that can't be carried out.
        SystemExit: the process was asked to end (SIGTERM); the checkpoint is written.
    """
    _import_vocabulary()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)
    with warnings.catch_warnings():
        # graphs are cached after the first epoch, so loading in the main process is a choice, not an oversight
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # the errors of short epochs are logged as epochs
        warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
        # DDP minds the strides of axes of length one, which mean nothing
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # lightning 2.6 calls what newer versions of torch and of its parser deprecate
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(lightning|jsonargparse)\b")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        try:
            return GeomlibCLI(verb, argv)
        except SIGTERMException:
            raise SystemExit(128 + signal.SIGTERM) from None


def _import_vocabulary() -> None:
    for name in FAMILIES:
        family(name)


def _class_names() -> list[str]:
    names: set[str] = set()
    pending: list[type] = [Task, Net, Store, Split, Schedule, LightningDataModule, EMA, Checkpoints]
    while pending:
        cls = pending.pop()
        names.add(cls.__name__)
        pending.extend(cls.__subclasses__())
    return sorted(names | {"AdamW", "Adam", "LAMB", "SGD"})


def _config_files(argv: Sequence[str]) -> list[str]:
    """Files behind `-c` and `--config`, in order."""
    files = []
    for position, word in enumerate(argv):
        if word in ("-c", "--config") and position + 1 < len(argv):
            files.append(argv[position + 1])
        elif word.startswith("--config="):
            files.append(word.partition("=")[2])
    return files


def run_name(files: Sequence[str]) -> str:
    """Name of a run: the recipe's path below its recipe folder, the name of the run whose config.yaml is used again."""
    if not files:
        return "unnamed"
    path = Path(files[0]).absolute()
    if path.name == "config.yaml" and path.parent.name.startswith("version_"):
        return path.parent.parent.name
    for folder in path.parents:
        if folder.name in ("recipes", "_recipes"):
            return path.relative_to(folder).with_suffix("").as_posix()
    return path.stem


def _many(trainer: Namespace) -> bool:
    """Whether the run will have several processes."""
    devices = trainer.devices
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu", "cuda") else 1
    number = (
        len(devices) if isinstance(devices, list) else devices.count(",") + 1 if isinstance(devices, str) else devices
    )
    return bool(trainer.num_nodes > 1 or number > 1)


def _provenance(files: Sequence[str]) -> dict[str, Any]:
    digest = hashlib.sha256(b"".join(Path(name).read_bytes() for name in files))
    return {"recipe_sha256": digest.hexdigest()} if files else {}


def _check_checkpoint(path: str, task: LightningModule) -> None:
    """Refuse a checkpoint that is unsafe, damaged, or of another net, before anything is built on it.

    Raises:
        FileFormatError: unsafe, damaged, or not of geomlib.
        ConfigError: tensors that don't fit the task's.
    """
    content = read_checkpoint(path)
    if "geomlib" not in content or not isinstance(content.get("state_dict"), dict):
        raise FileFormatError(f"{path}: is not a checkpoint of geomlib")
    if isinstance(task, Task):
        task.take_shape_of(content["geomlib"])
    found, wanted = content["state_dict"], task.state_dict()
    for name in [*wanted, *found]:
        shapes = [list(state[name].shape) if name in state else "no such tensor" for state in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"{path}: is of another net: '{name}' has {shapes[0]}, the configured net has {shapes[1]}"
                f"{nearest(name, found) if name not in found else ''}{_other_settings(content['geomlib'], path, task)}"
            )


def _other_settings(manifest: dict[str, Any], path: str, task: LightningModule) -> str:
    """Words about settings of the net in which a checkpoint and a task differ."""
    own = bare_net(task.net)[0] if isinstance(task, Task) else None
    if own is None or manifest.get("family") != own.family:
        return ""
    theirs = current_config(manifest, path)
    pairs = ((key, theirs.get(key), value) for key, value in own.config.items() if theirs.get(key) != value)
    rows = [
        f"{key} is {there!r} there and {here!r} here" for key, there, here in pairs if len(repr((there, here))) < 80
    ]
    return f"; of its settings {', '.join(rows)}" if rows else ""
