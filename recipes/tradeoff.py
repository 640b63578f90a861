"""Fine-tune a digit classifier to explain itself better, and plot what that costs in accuracy.

Every weight of the penalty is tried by several seeds on validation digits. Test digits are looked
at once: for the first weight, and for the one that ranks ink best within .5 % of its accuracy.

    python recipes/tradeoff.py runs/mnist/version_0/checkpoints/best.ckpt --out docs/tradeoff
"""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from functools import partial
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from dmn import load, train
from dmn.data import MNIST
from dmn.evaluate import score
from dmn.explain import SplitCAM

LAYER = "stage2_1"  # of g, whose SplitCAM is trained and scored
METRICS = {"RelevanceRankAccuracy": "higher", "PixelFlipping": "lower", "Sparseness": "higher"}
TRAINER: Any = {"callbacks": train.ProjectNonnegative(), "gradient_clip_val": 1.0}
QUIET: Any = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}


def finetune(data: MNIST, weight: float, given: Namespace) -> Any:
    """Train on from a checkpoint, with so much of the penalty."""
    net = load(given.checkpoint).model.train().requires_grad_()
    terms: Any = {"penalty": train.ExplanationPenalty("mask", weight, LAYER)} if weight else None
    adam = partial(torch.optim.Adam, lr=0.002)
    task = train.ClassificationTask(net, adam, train.OneCycle, terms=terms)
    trainer = train.Trainer(max_steps=given.steps, **TRAINER, **QUIET)
    trainer.fit(task, data.train_dataloader(), data.val_dataloader())
    return net.cpu().eval()


@torch.no_grad()
def measure(net: Any, digits: Any, images: int) -> list[float]:
    """Return the accuracy, and the scores of the explanations of the first digits."""
    right = (net(digits.images).argmax(1) == digits.labels).float().mean()
    scores = score(METRICS, net, SplitCAM(net, LAYER, "g"), *digits.__getitems__(range(images)))
    return [float(right), *(each.mean for each in scores.values())]


def main(args: list[str] | None = None) -> None:
    """Train with each weight, measure, test the chosen one, and plot."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="what dmn.load takes, of a network trained on fold 0")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.1, 0.3, 1.0, 3.0])
    parser.add_argument("--seeds", type=int, default=3, help="of the order of the digits")
    parser.add_argument("--steps", type=int, default=218, help="of 32 digits; 109 are an epoch")
    parser.add_argument("--images", type=int, default=100, help="whose explanations are scored")
    parser.add_argument("--out", default="tradeoff", help="table and plot, without their endings")
    given = parser.parse_args(args)
    data, nets, rows = MNIST(), {}, []
    data.setup("fit")
    for weight in given.weights:
        for data.seed in range(given.seeds):  # the folds stay
            net = nets[weight, data.seed] = finetune(data, weight, given)
            rows.append(["val", weight, data.seed, *measure(net, data.validation, given.images)])
    table = pd.DataFrame(rows, columns=["part", "weight", "seed", "accuracy", *METRICS])
    mean, spread = (table.groupby("weight").agg(how, numeric_only=True) for how in ("mean", "std"))
    near = mean[mean.accuracy >= mean.accuracy[given.weights[0]] - 0.005]
    for (weight, seed), net in nets.items():
        if weight in (given.weights[0], near.RelevanceRankAccuracy.idxmax()):
            table.loc[len(table)] = ["test", weight, seed, *measure(net, data.test, given.images)]
    table.to_csv(f"{given.out}.csv", index=False)
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3, sharey=True), METRICS, strict=True):
        axes.errorbar(mean[name], mean.accuracy, spread.accuracy, spread[name], "o-", capsize=3)
        for weight, at in mean.iterrows():
            axes.annotate(f" {weight:g}", (at[name], at.accuracy))
        axes.set(xlabel=f"{name} ({METRICS[name]} is better)", ylabel="validation accuracy")
    figure.savefig(f"{given.out}.png", dpi=120)


if __name__ == "__main__":
    main()
