"""L-BFGS on a batch: against closed forms, and what one sample must not take from another."""

from __future__ import annotations

import torch

from featspace.lbfgs import LBFGS

SCALES = torch.logspace(0, 3, 6, dtype=torch.float64).repeat(2, 1) * torch.tensor([[1.0], [1e-6]], dtype=torch.float64)
TARGETS = torch.arange(12, dtype=torch.float64).view(2, 6) / 5


def quadratic(x: torch.Tensor, rows=slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and gradients of ½ Σ a(x − b)² + 1e-12, whose condition is 1000."""
    gap = x - TARGETS[rows]
    return (SCALES[rows] * gap**2).sum(1) / 2 + 1e-12, SCALES[rows] * gap


def minimize(steps: int, rows=slice(None), first=0.1, longest=10.0) -> LBFGS:
    solver = LBFGS(torch.zeros_like(TARGETS[rows]), first, longest)
    for _ in range(steps):
        solver.tell(*quadratic(solver.point, rows))
    return solver


def test_a_badly_scaled_quadratic_is_solved_in_a_few_steps_whatever_its_units():
    solver = minimize(40)
    torch.testing.assert_close(solver.base, TARGETS, rtol=1e-4, atol=1e-4)
    # Steepest descent by the first step's length alone would need as many steps as the condition.
    assert (quadratic(solver.base)[0] < 1e-8 * quadratic(torch.zeros_like(TARGETS))[0] + 2e-12).all()


def test_steps_are_no_longer_than_told():
    solver = LBFGS(torch.zeros_like(TARGETS), first=0.1, longest=0.2)
    lengths = []
    for _ in range(10):
        before = solver.point
        solver.tell(*quadratic(before))
        lengths.append((solver.point - solver.base).square().mean(1).sqrt())
    torch.testing.assert_close(lengths[0], torch.full((2,), 0.1, dtype=torch.float64))
    assert torch.stack(lengths).max() <= 0.2 * (1 + 1e-12)


def test_samples_do_not_depend_on_each_other():
    both, alone = minimize(12), minimize(12, slice(1, 2))
    torch.testing.assert_close(both.point[1:], alone.point, rtol=1e-12, atol=1e-12)
    solver = minimize(6)
    solver.leave(torch.tensor([False, True]))
    for _ in range(6):
        solver.tell(*quadratic(solver.point, slice(1, 2)))
    torch.testing.assert_close(solver.point, alone.point, rtol=1e-12, atol=1e-12)


def test_a_step_that_leads_far_up_is_taken_back_and_the_next_is_shorter():
    solver = LBFGS(torch.zeros(1, 4, dtype=torch.float64), first=1.0, longest=1.0)
    slope = torch.ones(1, 4, dtype=torch.float64)
    assert solver.tell(torch.tensor([1.0]), slope).all()
    assert solver.tell(torch.tensor([1.1]), slope).all()  # a little up is let pass
    base = solver.base.clone()
    assert not solver.tell(torch.tensor([5.0]), slope).any()
    assert torch.equal(solver.base, base)
    torch.testing.assert_close((solver.point - base).abs(), torch.full_like(base, 0.5))


def test_what_is_not_finite_moves_nothing():
    solver = LBFGS(torch.zeros(2, 4, dtype=torch.float64), first=1.0, longest=1.0)
    broken = torch.tensor([[torch.nan] * 4, [1.0] * 4], dtype=torch.float64)
    values = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert solver.tell(values, broken).tolist() == [False, True]
    assert not solver.point[0].any() and solver.point[1].all()
    assert solver.tell(values, torch.ones_like(broken)).tolist() == [True, True]
    assert solver.point.isfinite().all() and solver.point[0].all()


def test_roughness_across_a_step_does_not_shorten_what_follows():
    solver = LBFGS(torch.zeros(1, 4), first=0.5, longest=100.0)
    first = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    solver.tell(torch.tensor([1.0]), first)  # a step of −1 along the first axis
    rough = torch.tensor([[0.0, 3.0, 0.0, 0.0]])  # the curvature along it is 1; the rest of the change is roughness
    solver.tell(torch.tensor([1.0]), rough)
    # A gradient that has grown along the step says nothing on curvature; on the last axis nothing is known.
    solver.tell(torch.tensor([1.0]), 2 * rough + torch.tensor([[0.0, 0.0, 0.0, 1.0]]))
    step = solver.base - solver.point
    torch.testing.assert_close(step[0, 3], torch.tensor(1.0))
