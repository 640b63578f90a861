"""Small networks of Hugging Face, made of configurations and saved as their users save them."""

import torch
import transformers
from transformers.utils import logging

CLASSES = ("cat", "dog", "émeu")
LABELS = {
    "id2label": dict(enumerate(CLASSES)),
    "label2id": {label: index for index, label in enumerate(CLASSES)},
}
TOKENS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
SQUARE = {"size": {"height": 32, "width": 32}}
SHORT = {"size": {"shortest_edge": 32}}
KINDS = {  # options of the configuration, name of the processor and its options
    "ViT": (TOKENS, "ViT", SQUARE),
    "DeiT": (TOKENS, "DeiT", {**SQUARE, "crop_size": {"height": 32, "width": 32}}),
    "Swin": (
        {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
        | {"image_size": 32, "patch_size": 4},
        "ViT",
        SQUARE,
    ),
    "ConvNext": ({"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}, "ConvNext", SHORT),
    "Beit": (TOKENS, "Beit", {**SQUARE, "do_center_crop": False}),
    "Dinov2": (
        TOKENS,
        "Bit",
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
    ),
    "ResNet": (
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "ConvNext",
        SHORT,
    ),
    "MobileViT": (
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32]}
        | {"num_attention_heads": 2, "image_size": 64},
        "MobileViT",
        {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
    ),
}


def make(kind, labels=LABELS, **options):
    """Return a network with random weights that look at the images, in evaluation mode."""
    own, _, _ = KINDS[kind]
    config = getattr(transformers, f"{kind}Config")(**{**own, **labels, **options})
    torch.manual_seed(4)
    model = getattr(transformers, f"{kind}ForImageClassification")
    made = model._from_config(config, attn_implementation="eager").eval()
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=(2 / weight[0].numel()) ** 0.5)
    return made


def make_processor(kind, **options):
    _, name, own = KINDS[kind]
    return getattr(transformers, f"{name}ImageProcessor")(**{**own, **options})


def save(model, folder, processor=None):
    """Save a network and its processor, without bars."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bars:
        logging.enable_progress_bar()
    if processor is not None:
        processor.save_pretrained(folder)
    return f"hf:{folder}"
