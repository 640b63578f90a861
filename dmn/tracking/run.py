"""Where a run is written, and under which name."""

from __future__ import annotations

from dataclasses import dataclass

from dmn.io.options import require_below, require_names


@dataclass
class Run:
    """Where a run is written, and under which name.

    Args:
        name: Name of the experiment: its folder below `root`, and the group in Weights & Biases.
        root: Folder of all runs.
        online: Send the run to Weights & Biases while it trains; needs an account.
        project: Project in Weights & Biases.

    Raises:
        OptionError: if a name leads out of `root`, or contains characters that file names cannot
            have.

    Examples:
        >>> from dmn.tracking import Run, tracking
        >>> run = Run("digits", root="runs", online=False)
        >>> loggers = tracking(run)  # with loggers as opened: ... Trainer(logger=opened)
        >>> run
        Run(name='digits', root='runs', online=False, project='dmn')
    """

    name: str = "dmn"
    root: str = "runs"
    online: bool = False
    project: str = "dmn"

    def __post_init__(self) -> None:
        require_below("run.name", self.name)
        require_names("run.root", self.root)
