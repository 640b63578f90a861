"""Errors that dmn raises when it cannot do what it was asked to.

All derive from `DmnError`, and most of them also from the error of Python that they are a kind of.
The message names what is wrong and says what would work. The classes differ by what a caller can do
about the error: give another option, other data, another file, ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class DmnError(Exception):
    """Base class of all errors of dmn; the message says what is wrong and what would work.

    Each argument is a line of the message.

    Examples:
        >>> from dmn.data import MNIST
        >>> from dmn.errors import DmnError
        >>> try:
        ...     MNIST(fold=7)
        ... except DmnError as error:
        ...     print(f"{type(error).__name__}: {error}")
        OptionError: data.fold is 7; choose 0 to 4
    """

    @property
    def lines(self) -> list[str]:
        """The lines of the message, without what KeyError or a process that loads data adds."""
        first, *others = map(str, self.args or ("",))
        if first.startswith(f"Caught {type(self).__name__} in "):  # and then a traceback
            first = first.rpartition(f"{type(self).__name__}: ")[2].strip()
        return [first, *others]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class OptionError(DmnError):  # no ValueError, which jsonargparse would take for its own
    """An option or a config has a value that it cannot have; names it, and says which are possible.

    Examples:
        >>> from dmn.errors import OptionError
        >>> from dmn.tracking import Run
        >>> try:
        ...     Run(name="../elsewhere")
        ... except OptionError as error:
        ...     print(error)
        run.name is '../elsewhere'...
    """


class UnknownNameError(DmnError, LookupError):
    """There is no network, method, metric, layer, ... of this name; lists those that there are.

    Examples:
        >>> import dmn
        >>> from dmn.errors import UnknownNameError
        >>> try:
        ...     dmn.load("mnist_pared")
        ... except UnknownNameError as error:
        ...     print(error)
        no network 'mnist_pared'; give a shipped one (mnist_certified, ...
    """


class TargetError(DmnError, ValueError):
    """The network has no class of this index, or the class cannot be explained alone.

    Examples:
        >>> import torch
        >>> import dmn
        >>> from dmn.errors import TargetError
        >>> net = dmn.load("mnist_paired").model
        >>> try:
        ...     net.explain(torch.rand(1, 1, 28, 28), target=12, layer="input")
        ... except TargetError as error:
        ...     print(error)
        the network has no class 12; there are 0 to 9
    """


class DataError(DmnError, ValueError):
    """Images, masks or labels are missing or do not fit; names the file or the shapes.

    Examples:
        >>> from dmn.data import Folder
        >>> from dmn.errors import DataError
        >>> try:
        ...     Folder("nowhere").setup("fit")
        ... except DataError as error:
        ...     print(error)
        /...nowhere: there is no such folder; put images there as class/name.jpg, ...
    """


class UnreadableImageError(DataError):
    """A file cannot be read as an image, or it would be unsafe to read it; names the file.

    Examples:
        >>> import dmn
        >>> from dmn.errors import UnreadableImageError
        >>> from dmn.io.pictures import read_picture
        >>> try:
        ...     read_picture(dmn.__file__)  # a program
        ... except UnreadableImageError as error:
        ...     print(error)
        /...: cannot be read as an image (cannot identify image file ...
    """


class CheckpointError(DmnError, ValueError):
    """Weights or a card are missing, damaged, or of another network; names the file and the keys.

    Examples:
        >>> from dmn.errors import CheckpointError
        >>> from dmn.models import PlainCNN
        >>> from dmn.train import initialise
        >>> try:
        ...     initialise(PlainCNN(), "mnist_paired")
        ... except CheckpointError as error:
        ...     print(error)
        mnist_paired: no weight fits; it has ...
    """


class BundleError(DmnError, ValueError):
    """A saved explanation is missing, damaged or changed; names the bundle and the member.

    Examples:
        >>> from dmn.errors import BundleError
        >>> from dmn.explain import Explanation
        >>> try:
        ...     Explanation.load("nowhere.zip")
        ... except BundleError as error:
        ...     print(error)
        nowhere.zip: there is no such bundle
    """


class WriteError(DmnError, OSError):
    """A file cannot be written, e.g. on a full disk; names it. Its old content is kept.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from dmn.errors import WriteError
        >>> from dmn.io.writing import write_whole
        >>> with TemporaryDirectory() as folder:
        ...     try:
        ...         write_whole(folder, "text")
        ...     except WriteError as error:
        ...         print(error)
        /...: cannot be written, it is no regular file; give another name
    """


class MissingPackageError(DmnError, ImportError):
    """A library is needed and not installed; says how to install it.

    Examples:
        >>> from dmn.errors import MissingPackageError
        >>> try:
        ...     from dmn import baselines  # needs captum, torchcam and zennit
        ... except MissingPackageError as error:
        ...     print(error)  # the command that installs them
    """


@contextmanager
def required(package: str, extra: str = "compare") -> Iterator[None]:
    """Say how to install packages if an import in the block fails.

    Args:
        package: The name of the package, or several names.
        extra: The extra of dmn that installs them.

    Raises:
        MissingPackageError: if something cannot be imported.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"this needs {package} ({error}): pip install 'dmn[{extra}]'"
        ) from error


class UnsupportedError(DmnError, ValueError):
    """A method cannot be applied to a network; names the operations, or says why.

    Attributes:
        nodes: Every operation that is not supported, if single ones are the cause: instances of
            `dmn.graph.Unsupported`.

    Examples:
        >>> from torch import nn
        >>> from dmn.errors import UnsupportedError
        >>> from dmn.split import split
        >>> try:
        ...     split(nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.LSTM(4, 4)))
        ... except UnsupportedError as error:
        ...     print(error)
        cannot split Sequential: 1 of its operations have no rule
          2 (LSTM): no rule; if it is monotone or linear, add one by dmn.rules.add_rule
    """

    nodes: tuple[Any, ...] = ()


class NeedsExampleError(UnsupportedError):
    """The forward of a network depends on the shape of the images, and no example was given.

    Examples:
        >>> from torch import nn
        >>> from dmn.errors import NeedsExampleError
        >>> from dmn.split import split
        >>> class Branching(nn.Module):
        ...     def forward(self, x):
        ...         return x.flatten(1) if x.shape[-1] > 8 else x
        >>> try:
        ...     split(Branching())
        ... except NeedsExampleError as error:
        ...     print(error)
        cannot trace Branching, ...; pass images as `example`
    """


class NotEqualError(DmnError, RuntimeError):
    """A rewritten network does not predict what the original predicts; says by how much.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from dmn.errors import NotEqualError
        >>> from dmn.split import split
        >>> class Noisy(nn.Linear):
        ...     def forward(self, x):
        ...         return super().forward(x.flatten(1)) + float(torch.rand(()))
        >>> try:
        ...     split(Noisy(4, 3), torch.rand(1, 1, 2, 2))
        ... except NotEqualError as error:
        ...     print(error)
        the rewritten Noisy differs from it by ...
    """


class NotMonotoneError(DmnError, ValueError):
    """A network should be monotone and is not; names the parameter or the module.

    Examples:
        >>> from dmn.errors import NotMonotoneError
        >>> from dmn.models import MonotoneMLP
        >>> from dmn.nn import assert_monotone
        >>> net = MonotoneMLP(4, hidden=(3,))
        >>> net.head.weight.data.fill_(-1)[0]
        tensor([-1., -1., -1.])
        >>> try:
        ...     assert_monotone(net)
        ... except NotMonotoneError as error:
        ...     print(error)
        head.weight has the value -1, below its floor 0; call dmn.nn.project(model) after each ...
    """


class RunError(DmnError, RuntimeError):
    """A run cannot go on, e.g. because a loss is not finite or a process failed; says what is kept.

    Examples:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from dmn.errors import RunError
        >>> from dmn.models import PlainCNN
        >>> from dmn.train import ClassificationTask, StopAtNonFinite, Trainer
        >>> data = DataLoader([(torch.full((1, 28, 28), torch.nan), 3)])
        >>> trainer = Trainer(
        ...     callbacks=[StopAtNonFinite()], fast_dev_run=True, accelerator="cpu", logger=False,
        ...     enable_progress_bar=False, enable_model_summary=False,
        ... )
        >>> try:
        ...     trainer.fit(ClassificationTask(PlainCNN()), data, data)
        ... except RunError as error:
        ...     print(error)
        the loss is nan in batch 0 of epoch 0; 784 of its pixels are not ...
    """
