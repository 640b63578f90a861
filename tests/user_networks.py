"""Networks as users write them: what their forwards return, and how many axes their inputs have."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from small_pairs import randomise
from torch import nn

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGES = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


@dataclass
class ModelOutput(OrderedDict):
    """An output that is a mapping and has attributes, as those of Hugging Face."""

    loss: object = None
    logits: object = None


class Attributes:
    """An output that has attributes only."""

    def __init__(self, logits):
        self.logits = logits


Named = namedtuple("Named", ["logits", "aux"])


class Tail(nn.Module):
    """A small classifier, whose logits a function turns into what it returns."""

    def __init__(self, turn, classes=3):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.head, self.turn = nn.Linear(4, classes), turn

    def logits(self, x):
        return self.head(self.relu(self.norm(self.conv(x))).mean((2, 3)))

    def forward(self, x):
        return self.turn(self.logits(x))


class Options(Tail):
    """It branches on optional arguments, and takes others it does not know."""

    def forward(self, pixel_values=None, labels=None, return_dict=None, scale=1.0, **others):
        if pixel_values is None or labels is not None:
            raise ValueError("give pixel_values, and no labels")
        logits = self.logits(pixel_values) * scale
        return (logits,) if return_dict is False else ModelOutput(logits=logits)


class Required(Tail):
    """It needs a second input."""

    def forward(self, x, age):
        return self.logits(x) + age


FORMS = {  # of the same logits
    "attribute": Attributes,
    "dataclass": lambda logits: ModelOutput(logits=logits),
    "dict": lambda logits: {"loss": None, "logits": logits},
    "tuple": lambda logits: (logits, logits.exp()),
    "list": lambda logits: [logits],
    "named tuple": lambda logits: Named(logits, None),
    "optional arguments": Options,
}


def made(form, classes=3):
    """Make one of `FORMS`, or from what turns logits; all have the same weights."""
    torch.manual_seed(0)
    turn = FORMS.get(form, form)
    kind = turn if isinstance(turn, type) and issubclass(turn, Tail) else Tail
    return randomise(kind(turn, classes)).double().eval()


class Net(nn.Module):
    """A residual classifier of inputs with any number of axes; `thin` ones are one pixel wide.

    Args:
        axes: Number of axes.
        thin: How many of the first axes its windows do not extend over.
        overlap: Whether windows of max pooling share pixels.
    """

    def __init__(self, axes, thin=0, overlap=False):
        super().__init__()

        def window(size, other):
            return (other,) * thin + (size,) * (axes - thin)

        self.axes = tuple(range(2, 2 + axes))
        options = {"kernel_size": window(3, 1), "padding": window(1, 0)}
        self.conv, self.norm = CONVOLUTIONS[axes](2, 5, **options), NORMS[axes](5)
        size, padding = (3, 1) if overlap else (2, 0)
        self.pool = MAX_POOLS[axes](window(size, 1), window(2, 1), window(padding, 0))
        self.before, self.inner = NORMS[axes](5), CONVOLUTIONS[axes](5, 5, **options)
        self.average, self.relu = AVERAGES[axes](window(2, 1)), nn.ReLU()
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.conv(x))))
        x = self.average(x + self.relu(self.inner(self.relu(self.before(x)))))
        return self.head(x.mean(self.axes))


def thin_and_thick(axes, overlap=False):
    """Return a network, and the same one with one axis more, over which inputs are one long."""
    torch.manual_seed(axes)
    net = randomise(Net(axes, overlap=overlap)).double().eval()
    other = Net(axes + 1, thin=1, overlap=overlap).double().eval()
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    weights = net.state_dict()
    other.load_state_dict({name: weights[name].view(shapes[name]) for name in weights})
    return net, other


def inputs(axes, count=3):
    """Return as many inputs, as images of `Net`, as there are axes."""
    size = {1: (40,), 2: (16, 12), 3: (8, 12, 10)}[axes]
    generator = torch.Generator().manual_seed(axes)
    return torch.randn(count, 2, *size, generator=generator, dtype=torch.float64)


def planted(axes, count=12):
    """Return inputs with a bump in the channel of their class, classes, and masks of the bumps."""
    generator = torch.Generator().manual_seed(axes)
    size, width = {1: (60,), 2: (18, 20), 3: (10, 12, 11)}[axes], 4
    x = 0.05 * torch.randn(count, 2, *size, generator=generator)
    y = torch.randint(2, (count,), generator=generator)
    masks = torch.zeros(count, 1, *size)
    for row in range(count):
        starts = [int(torch.randint(side - width, (), generator=generator)) for side in size]
        bump = tuple(slice(start, start + width) for start in starts)
        x[(row, int(y[row]), *bump)] += 1
        masks[(row, 0, *bump)] = 1
    return x, y, masks


class BumpDetector(nn.Module):
    """Its logit of a class counts places where that channel is bright: the bump alone decides."""

    def __init__(self, axes):
        super().__init__()
        window = {"kernel_size": 3, "padding": 1}
        self.mean = CONVOLUTIONS[axes](2, 2, groups=2, **window)
        self.relu, self.pool = nn.ReLU(), MAX_POOLS[axes](2)
        self.head = CONVOLUTIONS[axes](2, 2, 1, bias=False)
        nn.init.constant_(self.mean.weight, 1 / 3**axes)
        nn.init.constant_(self.mean.bias, -0.3)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(2).view(self.head.weight.shape))

    def forward(self, x):
        return self.head(self.pool(self.relu(self.mean(x)))).flatten(2).sum(2)


def share_inside(maps, masks):
    """Return the share of positive values inside masks, for each map."""
    positive = maps.clamp(min=0)
    return (positive * masks).flatten(1).sum(1) / positive.flatten(1).sum(1)
