"""Networks of training runs: a checkpoint, and the configuration of the run beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmn.errors import CheckpointError
from dmn.hub.building import load_described, require_file
from dmn.hub.cards import count_of_classes, read_card
from dmn.hub.network import Network

IMAGES: dict[str, dict[str, Any]] = {  # what a run's configuration does not say of its data
    "dmn.data.MNIST": {"channels": 1, "size": 28},
    "dmn.data.CIFAR10": {"size": 32},
}
ELSEWHERE = ("net", "explainers", "num_classes", "classes")  # of the task, in fields of their own


def load_run(folder: str) -> Network:
    """Load the best checkpoint of a run; see `dmn.load`."""
    return load_checkpoint(best_checkpoint(folder))


def best_checkpoint(folder: str | Path) -> Path:
    """Return where a run has its best checkpoint."""
    return Path(folder, "checkpoints", "best.ckpt")


def load_checkpoint(checkpoint: Path | str) -> Network:
    """Load a checkpoint of a run; see `dmn.load`."""
    checkpoint = Path(checkpoint)
    config_path = checkpoint.parent.parent / "config.yaml"
    config = read_card(require_file(config_path))
    try:
        card = _card(config)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{config_path}: no run's: {error!r}") from error
    return load_described(str(checkpoint), card, config_path, checkpoint, "run")


def _card(config: dict[str, Any]) -> dict[str, Any]:
    """Write what a run's configuration says as a card does."""
    data, task = config["data"], config["model"]
    images = {**IMAGES.get(data["class_path"], {}), **data.get("init_args", {})}
    side = images.get("size")
    return {
        "name": config["run"]["name"],
        "net": task["net"],
        "training": {key: task[key] for key in task if key not in ELSEWHERE},
        "explainers": task.get("explainers"),
        "data": data,
        "classes": task.get("classes") or _numbers(task["num_classes"]),
        "size": side and [images.get("channels", 3), side, side],
        "mean": images.get("mean"),
        "std": images.get("std"),
        "epochs": config["trainer"]["max_epochs"],
        "seed": config["seed_everything"],
    }


def _numbers(count: Any) -> list[str]:
    return [str(label) for label in range(count_of_classes(count))]
