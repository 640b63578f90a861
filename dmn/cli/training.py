"""`dmn fit`, `finetune`, `validate` and `test`: Lightning's command line, for one of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from dmn.cli.config import add_config_option
from dmn.cli.linking import link_to_data
from dmn.cli.parser import Parser
from dmn.errors import CheckpointError
from dmn.io.options import SEEDS, require, require_below
from dmn.io.resources import checkpoint_names, path_hint
from dmn.io.writing import write_whole
from dmn.tracking import Run, log_config, tracking
from dmn.train import (
    ClassificationTask,
    EpochCheckpoint,
    HeatmapLogger,
    LogCertifiedAccuracy,
    ParameterSummary,
    ProjectNonnegative,
    QuantusLogger,
    RankLogger,
    RunSummary,
    StopAtNonFinite,
    Trainer,
    Unfreeze,
    check_same_run,
    load_shipped_weights,
    progress_bar,
)

DESCRIPTIONS = {
    "fit": """\
Train a network, watched by heatmaps and Quantus scores each epoch.

  dmn fit --config mnist
  dmn fit --config mnist --trainer.max_epochs 5 --run.online true

The options most often changed stand last: --run, --checkpoint, --heatmaps, --quantus.
What a class takes, --model.net say, is told by e.g.
  dmn fit --model.net.help dmn.models.DifferenceOfMonotone""",
    "finetune": """\
Train from the weights of a checkpoint, with a new optimizer and schedule.

  dmn finetune --config mnist --init_from runs/mnist/version_0/checkpoints/best.ckpt
  dmn finetune --config mnist --init_from best --data.init_args.fold 1

Digits become letters: as many classes, but others, hence a head that starts anew. It is trained
alone for an epoch, then thawed downwards, each layer at .7 of the rate of the one above:
  dmn finetune --config letters --init_from mnist_paired \\
      --fresh_head true --unfreeze.head_epochs 1 --unfreeze.layers_per_epoch 2 \\
      --model.layer_decay 0.7

Keys that are missing, unexpected or replaced (a head for other classes) are reported, and the
constraint is kept. Files are read without executing code. An interrupted run is resumed by the
same command and --ckpt_path last.""",
    "validate": """\
Report a checkpoint's metrics on the validation set, heatmaps and Quantus scores included.

  dmn validate --config mnist --ckpt_path best --quantus.images 100""",
    "test": """\
Report a checkpoint's metrics on the test set: once, when all is chosen.

  dmn test --config mnist --ckpt_path best""",
}
SKIPPED = {  # arguments of the trainer's methods, which the command line gives them
    "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
    "finetune": {"model", "datamodule"},
    "validate": {"model", "dataloaders", "datamodule"},
    "test": {"model", "dataloaders", "datamodule"},
}
CHECKPOINT = {
    "checkpoint.filename": "best",
    "checkpoint.monitor": "val/acc",
    "checkpoint.mode": "max",
    "checkpoint.save_last": True,
    "checkpoint.auto_insert_metric_name": False,
    "checkpoint.enable_version_counter": False,
    "checkpoint.save_on_train_epoch_end": True,
}
LEAST: dict[str, float] = {  # of options whose own code would take less, and go wrong
    **dict.fromkeys(("heatmaps.images", "quantus.images", "rank.images"), 1),
    **dict.fromkeys(
        [f"{name}.every_n_epochs" for name in ("heatmaps", "quantus", "rank", "certified")], 0
    ),
    **dict.fromkeys(("unfreeze.head_epochs", "unfreeze.layers_per_epoch"), 0),
    **dict.fromkeys(("trainer.max_epochs", "trainer.max_steps"), -1),
    "trainer.accumulate_grad_batches": 1,
    "model.layer_decay": 0,
    "model.optimizer.init_args.lr": 0,
    "quantus.seed": 0,
}
TRAINER = {
    "enable_model_summary": False,  # ParameterSummary shows more
    "log_every_n_steps": 1,
    "gradient_clip_val": 1.0,
}


def find_checkpoint(name: str | None, run: Run) -> str | None:
    """Turn "best" and "last" into the newest such checkpoint of a run; leave paths as they are.

    Args:
        name: "best", "last", a path, the name of a shipped network, or None.
        run: Whose folder is searched.

    Raises:
        CheckpointError: names the folder, and how to get there.
    """
    if name is None or name in checkpoint_names():
        return name
    if name not in ("best", "last"):
        if hint := path_hint(name):
            raise CheckpointError(f"no checkpoint {name!r}; give best or last{hint}")
        return name
    found = list(Path(run.root, run.name).glob(f"version_*/checkpoints/{name}.ckpt"))
    if not found:
        raise CheckpointError(
            f"no {name}.ckpt below {Path(run.root, run.name)}; train first with "
            f"`dmn fit`, or give --run.name, --run.root or the path of a checkpoint"
            + path_hint(name)
        )
    return str(max(found, key=lambda path: path.stat().st_mtime_ns))


def check_options(config: Any) -> None:
    """Refuse numbers out of range, and names that would lead out of a run's folder.

    Args:
        config: The options of a subcommand, by dotted names.

    Raises:
        OptionError: names the option, and says what can be.
    """
    for option, least in LEAST.items():
        require(option, config.get(option), least)
    require("seed_everything", config.get("seed_everything"), 0, SEEDS)
    for option in ("model.explainers", "model.terms"):
        for name in config.get(option) or {}:
            require_below(f"a name in {option}", name)
    require_below("checkpoint.filename", config.get("checkpoint.filename") or "best")


class TrainingParser(Parser, LightningArgumentParser):
    """Lightning's parser, which reads and speaks as those of all commands."""


class SaveConfig(SaveConfigCallback):
    """Save the whole configuration in the run's folder and in Weights & Biases."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the folder, which asks all processes, and save; if it is resumed, not yet."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)
        if stage != "fit" or not self.config.get("ckpt_path"):
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what a run goes on with, once its state is restored."""
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write it, whole or not at all, and hand it to the loggers."""
        text = self.parser.dump(self.config, skip_none=False)
        write_whole(self._folder / self.config_filename, text)
        log_config(trainer.loggers, self.config.as_dict())


class DmnCLI(LightningCLI):
    """LightningCLI with the run, the checkpoints and the watchers as options of their own.

    Args:
        args: The command line, from the command's name on; the parser has no other command.
        opened: Closes the loggers when the command ends, however it ends.
    """

    def __init__(self, args: Sequence[str], opened: ExitStack) -> None:
        command = args[0]
        self._args = list(args)
        self._opened = opened
        super().__init__(
            ClassificationTask,
            pl.LightningDataModule,
            subclass_mode_data=True,
            trainer_class=Trainer,
            trainer_defaults={**TRAINER, "callbacks": _fixed_callbacks()},
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},  # SaveConfig writes it
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=TrainingParser,
            parser_kwargs={
                "prog": "dmn",
                command: {
                    "description": DESCRIPTIONS[command],
                    "usage": f"dmn {command} --config NAME_OR_FILE [--OPTION VALUE ...]",
                },
            },
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose `--config` also takes the names of shipped configs."""
        parser = self.parser_class(**kwargs)
        add_config_option(parser)
        return parser

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the subcommand, and the arguments of the trainer's method it does not take."""
        return {self._args[0]: SKIPPED[self._args[0]]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the run and of callbacks, such as `--quantus` and `--certified`."""
        parser.add_class_arguments(Run, "run")
        parser.add_lightning_class_args(EpochCheckpoint, "checkpoint")
        parser.add_lightning_class_args(HeatmapLogger, "heatmaps")
        parser.add_lightning_class_args(QuantusLogger, "quantus")
        parser.add_lightning_class_args(RankLogger, "rank")
        parser.add_lightning_class_args(LogCertifiedAccuracy, "certified")
        parser.add_lightning_class_args(Unfreeze, "unfreeze")
        parser.set_defaults(CHECKPOINT)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse options that cannot be before anything follows from them."""
        self.config = parser.parse_args(self._args)
        check_options(self.config[self.config["subcommand"]])

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is: Lightning's own takes options from a checkpoint, any class."""

    def before_instantiate_classes(self) -> None:
        """Find the checkpoints that are asked for by name, and refuse to go on with another run."""
        config = self.config[self.subcommand]
        link_to_data(config)
        if self.subcommand in ("fit", "finetune") and config["ckpt_path"] in checkpoint_names():
            raise CheckpointError(
                f"{config['ckpt_path']} is shipped without the state of its training, and cannot "
                f"be resumed; start from it by `dmn finetune --init_from {config['ckpt_path']}`"
            )
        for key in ("ckpt_path", "init_from"):
            if key in config:
                config[key] = find_checkpoint(config[key], config["run"])
        path = config["ckpt_path"]
        elsewhere = path is None or "://" in path or path in (*checkpoint_names(), "hpc")
        if not (elsewhere or os.path.isfile(path)):
            raise CheckpointError(f"{path}: there is no such file; give best, last or a path")
        if self.subcommand in ("fit", "finetune") and path:
            text = self._parser(self.subcommand).dump(config, skip_none=False)
            check_same_run(Path(path), text)

    def before_test(self) -> None:
        """Give the task the weights of a shipped network, which are no checkpoint of Lightning's.

        Raises:
            CheckpointError: if the config's network is another one.
        """
        config = self.config_init[self.subcommand]
        if config["ckpt_path"] in checkpoint_names():
            load_shipped_weights(self.model.net, config["ckpt_path"])
            config["ckpt_path"] = None

    before_validate = before_test

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Give the trainer its loggers, unless the config names others or none."""
        config = self.config[self.subcommand]
        if config["trainer"]["logger"] is None:
            resumed = config.get("ckpt_path") if self.subcommand in ("fit", "finetune") else None
            job = {"fit": "train"}.get(str(self.subcommand), str(self.subcommand))
            run = tracking(config["run"], job, Path(resumed) if resumed else None)
            kwargs["logger"] = self._opened.enter_context(run)
        return super().instantiate_trainer(**kwargs)


def main(args: Sequence[str]) -> None:
    """Run `dmn fit`, `finetune`, `validate` or `test`.

    Args:
        args: The command line, from the command's name on.
    """
    with ExitStack() as opened:
        DmnCLI(args, opened)


def _fixed_callbacks() -> list[pl.Callback]:
    return [
        StopAtNonFinite(),
        ProjectNonnegative(),
        ParameterSummary(),
        RunSummary(),
        progress_bar(),
    ]
