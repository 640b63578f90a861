import pytest
import torch
import yaml
from train_problem import make_task

from dmn.data import ImageBatch
from dmn.hub import Network, save_network
from dmn.train import Distillation, Term

TEACHER = """
class_path: dmn.models.MonotoneConvNet
init_args: {in_channels: 1, widths: [4], units: 1, grid: 2, num_classes: 2, kernel: 1}
"""


def unlabelled(x):
    return ImageBatch(x, torch.zeros(len(x), dtype=torch.long))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Save a small network as those that are shipped."""
    from dmn.models import MonotoneConvNet

    torch.manual_seed(3)
    net = yaml.safe_load(TEACHER)
    model = MonotoneConvNet(**net["init_args"]).eval()
    card = {"net": net}
    network = Network(
        "teacher", model, ("left", "right"), (1, 8, 8), None, None, torch.tensor, card
    )
    return str(save_network(network, tmp_path_factory.mktemp("teacher")))


def test_distillation_is_the_divergence_at_a_temperature(teacher):
    term = Distillation(teacher, temperature=3.0)
    x, logits = torch.rand(5, 1, 8, 8), torch.randn(5, 2)
    p = (term.teacher.model(x) / 3).softmax(dim=1)
    q = (logits / 3).softmax(dim=1)
    expected = 9 * (p * (p.log() - q.log())).sum(dim=1).mean()
    torch.testing.assert_close(term(None, unlabelled(x), logits), expected)
    assert float(term(None, unlabelled(x), term.teacher.model(x))) == pytest.approx(0, abs=1e-6)


def test_training_adds_its_terms_and_leaves_the_teacher_alone(teacher, data, make_trainer):
    term = Distillation(teacher, weight=2.0)
    task = make_task(terms={"distillation": term})
    before = {k: v.clone() for k, v in term.teacher.model.state_dict().items()}
    trainer = make_trainer(max_epochs=8)
    trainer.fit(task, data)
    metrics = trainer.callback_metrics
    assert metrics["train/loss"] > 2 * metrics["train/distillation"] > 0
    assert all(torch.equal(v, before[k]) for k, v in term.teacher.model.state_dict().items())
    assert not any("teacher" in key for key in task.state_dict())
    assert "val/distillation" not in metrics


def test_a_student_comes_closer_to_its_teacher_than_labels_bring_it(teacher, data, make_trainer):
    x, gaps = data.parts.tensors[0], {}
    for weight in (0.0, 20.0):
        term = Distillation(teacher, weight)
        task = make_task(terms={"distillation": term})
        make_trainer(max_epochs=8).fit(task, data)
        gaps[weight] = float(term(None, unlabelled(x), task.eval()(x).detach()))
    assert gaps[20.0] < gaps[0.0]


def test_a_term_says_nothing_by_itself():
    with pytest.raises(NotImplementedError):
        Term()(None, (), torch.zeros(1))
