"""How long a loader is fed with broken files."""

from hypothesis import HealthCheck, Phase, settings


def fuzzed(examples):
    """Settings of so many examples: the same each time, of any duration, kept nowhere."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
