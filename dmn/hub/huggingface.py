"""Image classifiers of Hugging Face, from local folders, without running code or downloading."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmn.errors import CheckpointError, OptionError, UnsupportedError, required
from dmn.hub.described import classes_described, images_described, require_one_per_output
from dmn.hub.folders import CONFIG, PREPROCESSOR, Folder, harmless, read_folder
from dmn.hub.network import Network
from dmn.hub.processors import about_images, assumed_images, quiet
from dmn.io.options import require
from dmn.io.text import one_line, plain
from dmn.io.weights import format_mismatches, limit_allocation, read_weights, truncate
from dmn.io.wrappers import drop_prefix

PREFIX = "hf:"
RANDOM = "random"
# what every network has, and what methods that look at attention can read
ATTENTION = "eager"
REMEDY = f"is it of this network, and of as many classes as {CONFIG} has in id2label?"

log = logging.getLogger(__name__)


def is_huggingface(name: str) -> bool:
    """Return whether a name is of the form `hf:FOLDER`."""
    return name.startswith(PREFIX)


def folder_of(name: str) -> str:
    """Return the folder of `hf:FOLDER`."""
    return name.removeprefix(PREFIX)


def load_huggingface(
    name: str,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | str | Path | None = None,
    **images: Sequence[float] | None,
) -> Network:
    """Load an image classifier of Hugging Face from a local folder; see `dmn.load`.

    Args:
        name: `hf:FOLDER`, where the folder is as `save_pretrained` writes it.
        weights: None for those in the folder, another `.safetensors` file, or "random".
        num_classes: Of the head; None for as many as config.json names.
        classes: A name for each output; None for those of config.json.
        **images: size, mean and std; what is not given of them is preprocessor_config.json's.

    Raises:
        MissingPackageError: without transformers.
        UnknownNameError: if there is no such folder.
        CheckpointError: if a file is missing or damaged, asks for code, or does not fit.
        UnsupportedError: if it is of another kind of network; names it.
        OptionError: if an option does not fit.
    """
    require("num_classes", num_classes, 1)
    folder = read_folder(folder_of(name))
    _classifiers()  # before weights are read
    values = _with_classes(folder, num_classes)
    file = folder.path / CONFIG
    config = _config(values, file)
    names = classes_described(classes)
    require_one_per_output(names, config.num_labels)
    path = _weights(folder, weights)
    model = _random(config, file) if path is None else _filled(config, file, path, name)
    about, preprocessor = _about_images(folder, values, config, name, images)
    card = {"name": name, "weights": RANDOM if path is None else path.name}
    return Network(
        name,
        model.eval().requires_grad_(False),
        names or _classes(config),
        **about,
        card={**card, "huggingface": {"config": values, "preprocessor": preprocessor}},
        source=card["weights"],
    )


def build(values: dict[str, Any]) -> nn.Module:
    """Build a classifier with random weights.

    Args:
        values: Content of config.json.

    Raises:
        CheckpointError: if it is damaged, or asks for code.
        UnsupportedError: if it is of another kind of network.
    """
    return _random(_config(harmless(values, CONFIG), CONFIG), CONFIG).eval()


def _weights(folder: Folder, weights: str | Path | None) -> Path | None:
    """Return the file of weights, or None for random ones."""
    if weights is None:
        return folder.weights()
    if weights == RANDOM:
        return None
    path = Path(weights)
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: give a .safetensors file, which cannot hold code, or {RANDOM!r}"
        )
    return path


def _with_classes(folder: Folder, num_classes: int | None) -> dict[str, Any]:
    """Return the configuration, for a number of classes if one is given."""
    values = dict(folder.config)
    named = values.get("id2label")
    if num_classes is not None and (not isinstance(named, dict) or len(named) != num_classes):
        values["id2label"] = named = {str(index): str(index) for index in range(num_classes)}
        values["label2id"] = {label: int(index) for index, label in named.items()}
        values.pop("num_labels", None)
    if named is None:
        return values
    if not isinstance(named, dict) or {*named} != {str(index) for index in range(len(named))}:
        raise CheckpointError(f"{folder.path / CONFIG}: id2label must name classes 0, 1, 2, ...")
    if values.get("num_labels", len(named)) != len(named):
        raise CheckpointError(
            f"{folder.path / CONFIG}: num_labels is {values['num_labels']}, but id2label names "
            f"{len(named)} classes"
        )
    return values


def _classifiers() -> tuple[Any, Any]:
    """Return transformers' tables of configurations, and of image classifiers."""
    with required("transformers", "huggingface"):
        from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    return CONFIG_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING


def _config(values: dict[str, Any], path: Path | str) -> Any:
    """Make a configuration of transformers' own classes, and refuse what is no image classifier."""
    configs, classifiers = _classifiers()
    kind, built = values.get("model_type"), values.get("architectures")
    if kind is None and "architecture" in values:
        raise UnsupportedError(
            f"{path}: is of timm's {values['architecture']}; give timm:{values['architecture']} "
            "with its model.safetensors as weights"
        )
    if not isinstance(kind, str) or kind not in configs:
        raise UnsupportedError(f"{path}: transformers has no networks of model_type {kind!r}")
    made = configs[kind]
    own = classifiers.get(made, ())
    known = [each.__name__ for each in (own if isinstance(own, tuple) else (own,))]
    named = built if isinstance(built, list) and built else known
    if not known or not {*map(str, named)} & {*known}:
        what = truncate(map(str, named)) or kind
        hint = f", as {' or '.join(known)} is" if known else ""
        raise UnsupportedError(f"{path}: {what} is no image classifier{hint}")
    try:
        return made.from_dict(values)
    except Exception as error:  # of what was tampered with
        raise CheckpointError(f"{path}: no configuration of {kind}: {one_line(error)}") from error


def _random(config: Any, path: Path | str) -> nn.Module:
    with required("transformers", "huggingface"):
        from transformers import AutoModelForImageClassification
    try:
        with quiet():
            model: nn.Module = AutoModelForImageClassification.from_config(
                config, attn_implementation=ATTENTION, trust_remote_code=False
            )
    except CheckpointError:  # of what is far too large
        raise
    except Exception as error:  # of what was tampered with
        raise CheckpointError(f"{path}: makes no network: {one_line(error)}") from error
    return model.float()


def _filled(config: Any, file: Path, path: Path, name: str) -> nn.Module:
    """Build a network filled from a file, whose keys may be those of older versions."""
    state = read_weights(path)
    _, classifiers = _classifiers()
    kinds = classifiers[type(config)]
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    kind = next((each for each in kinds if each.__name__ in (config.architectures or ())), kinds[0])
    with limit_allocation(path, state), torch.device("meta"):
        expected = _random(config, file).state_dict()
    state = drop_prefix(state, expected.keys(), path)
    with quiet():
        model, found = kind.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            attn_implementation=ATTENTION,
            ignore_mismatched_sizes=True,  # they are refused below, in one line
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
        )
    faults = _faults(found, state, model.state_dict())
    if faults:
        raise CheckpointError(f"{path} does not fit {name}: {format_mismatches(faults)}; {REMEDY}")
    if found["unexpected_keys"]:
        log.info(plain(f"{path}: left out: {truncate(sorted(found['unexpected_keys']))}"))
    filled: nn.Module = model
    return filled


def _faults(
    found: dict[str, Any], state: dict[str, Tensor], own: dict[str, Tensor]
) -> dict[str, list[str]]:
    """Return what is wrong with the weights that were loaded, as `state_dict_mismatches` does."""
    # keys alone before transformers 5, with both shapes since
    other = sorted(key if isinstance(key, str) else key[0] for key in found["mismatched_keys"])
    shapes = {key: tuple(state[key].shape) if key in state else "otherwise" for key in other}
    faults = {
        "missing": sorted(found["missing_keys"]),
        "misshapen": [f"{key} {shapes[key]} for {tuple(own[key].shape)}" for key in other],
    }
    return {kind: keys for kind, keys in faults.items() if keys}


def _about_images(
    folder: Folder, values: dict[str, Any], config: Any, name: str, images: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what `Network` wants to know of images, and the preprocessor if it is the folder's."""
    preprocessor = folder.preprocessor
    if preprocessor is None:
        about, told = assumed_images(values, config)
        if not images:
            log.info(plain(f"{folder.path}: no {PREPROCESSOR}, so {told}"))
    else:
        about = about_images(values, preprocessor, folder.path / PREPROCESSOR)
    if not images:
        return about, preprocessor
    if about.pop("bgr", False):
        raise OptionError(
            f"{name} takes blue before red; size, mean and std are changed in {PREPROCESSOR} only"
        )
    known = {key: about[key] for key in ("size", "mean", "std")}
    return images_described(name, **{**known, **images}), None


def _classes(config: Any) -> tuple[str, ...]:
    """Return the names of classes, or numbers where they are only numbered."""
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    numbered = all(label == f"LABEL_{index}" for index, label in enumerate(names))
    return tuple(map(str, range(len(names))) if numbered else names)
