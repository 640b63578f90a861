import pytest
import torch

from dmn.nn.init import STARTS, dirac_positive_, log_normal_


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (6, 4, 3, 3), (5, 2, 3)])
def test_starts_are_nonnegative_and_deterministic(start, shape):
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        STARTS[start](weight := torch.full(shape, -1.0))
        draws.append(weight)
    assert (draws[0] >= 0).all()
    assert draws[0].std() > 0
    assert torch.equal(*draws)


def test_dirac_taps_the_centre_of_one_input_a_row():
    weight = torch.empty(5, 2, 3, 3)
    dirac_positive_(weight, mass=0.0)
    for row in range(5):
        assert weight[row, row % 2, 1, 1] == 1
    assert weight.sum() == 5


def test_dirac_noise_has_the_mass_asked_for():
    weight = torch.empty(200, 50, 3, 3)
    dirac_positive_(weight, mass=0.3)
    assert weight.flatten(1).sum(1).mean() == pytest.approx(1.3, rel=0.02)


@pytest.mark.parametrize("correlation", [0.3, 0.5, 0.7])
def test_log_normal_keeps_variance_and_correlation_through_a_relu_layer(correlation):
    """Simulate what the derivation promises of inputs with unit variance and this correlation."""
    inputs, outputs, samples = 8, 20_000, 4_000
    common, own = torch.randn(samples, 1), torch.randn(samples, inputs)
    z = correlation**0.5 * common + (1 - correlation) ** 0.5 * own
    weight = torch.empty(outputs, inputs)
    log_normal_(weight, correlation)
    after = z.relu() @ weight.T
    after -= inputs * weight.mean() / (2 * torch.pi) ** 0.5  # the centring bias
    assert after.square().mean() == pytest.approx(1.0, rel=0.1)
    # Averaged over outputs only what all outputs share is left: their covariance.
    assert after.mean(dim=1).var() == pytest.approx(correlation, rel=0.1)


def test_log_normal_has_the_moments_of_the_paper():
    inputs = 8
    weight = torch.empty(200_000, inputs)
    log_normal_(weight)
    mean_squared = (
        6
        * torch.pi
        / (inputs * (6 * (torch.pi - 1) + (inputs - 1) * (3 * 3**0.5 + 2 * torch.pi - 6)))
    )
    assert weight.mean().square() == pytest.approx(mean_squared, rel=0.02)
    assert weight.var() == pytest.approx(1 / inputs, rel=0.1)


def test_only_the_dirac_start_keeps_channels_apart():
    """Perron-Frobenius: after some layers dense positive weights leave one direction."""

    def effective_rank(start):
        x = torch.rand(512, 32)
        for _ in range(8):
            STARTS[start](weight := torch.empty(32, 32))
            x = (x @ weight.T).relu()
            x = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
        values = torch.linalg.svdvals(x).square()
        shares = values / values.sum()
        return float((-(shares * shares.clamp(min=1e-12).log()).sum()).exp())

    assert effective_rank("dirac") > 4 * effective_rank("uniform")
    assert effective_rank("dirac") > 4 * effective_rank("log_normal")
