"""An evaluation holds a batch at a time, however many images there are."""

import json
import subprocess
import sys

import pytest

SIZE = 64
BYTES = 3 * SIZE**2 * 4  # of an image in float32
SCRIPT = """
import json, os, sys
from pathlib import Path
import pytorch_lightning as pl
import quantus  # once, before the processes part
import torch
from PIL import Image
import dmn.cli.training  # likewise: `main` imports it when it is called
from dmn.cli.main import main
from dmn.data import Folder
from dmn.evaluate.meter import ExplanationMeter
from dmn.explain import SplitCAM
from dmn.models import DifferenceOfMonotone, MonotoneConvNet

SIZE, BATCH = {size}, {batch}
torch.set_num_threads(1)

def folder(count):
    root = Path(f"images{{count}}")
    for label in "ab":
        for part, images in (("train", 1), ("val", 1), ("test", count // 2)):
            (root / part / label).mkdir(parents=True)
            for number in range(images):
                colour = (number % 256, 80 * (label == "a"), number // 256)
                Image.new("RGB", (SIZE, SIZE), colour).save(root / part / label / f"{{number}}.png")
    return root

def net():
    sides = (MonotoneConvNet(6, (4, 4), 1, grid=2, num_classes=2) for _ in "gh")
    return DifferenceOfMonotone(*sides)

def tested(root):
    side = dict(class_path="dmn.models.MonotoneConvNet", init_args=dict(
        in_channels=6, widths=[4, 4], units=1, grid=2, num_classes=2))
    init_args = dict(g=side, h=side)
    pair = dict(class_path="dmn.models.DifferenceOfMonotone", init_args=init_args)
    main(["test", "--model.num_classes=2", "--model.net", json.dumps(pair),
          "--data=dmn.data.Folder", f"--data.root={{root}}", f"--data.size={{SIZE}}",
          f"--data.batch_size={{BATCH}}", "--data.num_workers=0", "--trainer.logger=false",
          "--trainer.accelerator=cpu"])

def metered(root):
    data = Folder(str(root), size=SIZE, batch_size=BATCH, num_workers=0)
    data.setup("test")
    pair = net().eval()
    meter = ExplanationMeter(["Sparseness"])
    for batch in data.test_dataloader():
        meter.update(pair, SplitCAM(pair, layer="stem"), *batch)
    scores = meter.compute()
    assert scores["Sparseness/count"] + scores["Sparseness/dropped"] == len(data.test)

def peak(work, root):
    process = os.fork()  # whose memory is counted apart
    if not process:
        try:
            work(root)
        except BaseException:
            import traceback; traceback.print_exc(); os._exit(1)
        os._exit(0)
    _, status, usage = os.wait4(process, 0)
    assert status == 0
    return usage.ru_maxrss

roots = [folder(count) for count in {counts}]
works = (tested, metered)
print(json.dumps({{work.__name__: [peak(work, root) for root in roots] for work in works}}))
"""


@pytest.mark.torture(
    "`dmn test` and ExplanationMeter go over 10,000 image files",
    "at their peak they hold as much memory as over 1,000",
)
def test_memory_does_not_depend_on_the_number_of_images(tmp_path, full, happened):
    script, counts = tmp_path / "peak.py", (1_000, 10_000) if full else (100, 400)
    batch = counts[0] // 10  # allocators settle within as many batches
    script.write_text(SCRIPT.format(counts=counts, size=SIZE, batch=batch))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout.splitlines()[-1])
    happened("; ".join(f"{work}: {b / a:.3f} times as much" for work, (a, b) in peaks.items()))
    held = {work: (most - least) * 1024 for work, (least, most) in peaks.items()}
    assert max(held.values()) < 0.25 * (counts[1] - counts[0]) * BYTES, peaks
