# SPDX-License-Identifier: Apache-2.0
"""Truth cases 16 and 17: conserved charges obstruct training; saddles are left one by one."""

import math

import torch
from torch import Tensor

from symfast.balance import balance_
from symfast.charges import charge_of
from symfast.symmetry_group import Member, SymmetryGroup
from symfast.verify.case import Case, CaseResult, Check, Curves, Series, at_most, near

OBSTRUCTION = "Nurisso et al. 2024"
SADDLES = "Saxe et al. 2014; Ziyin et al. 2025, parameter symmetry"
#: Target singular values and the size of the first product of case 17.
MODES, A0 = (3.0, 1.5, 0.5), 1e-6
#: Hidden neurons and learning rate of case 16.
NEURONS, RATE = 4, 0.01
INITS = ("all v < 0, c < 0", "one v > 0", "all v < 0, |v| small: c > 0",
         "the first, rescaled to c > 0")  # fmt: skip


def _inits() -> tuple[Tensor, Tensor]:
    """Hidden rows W (4, 4, 2) and output weights v (4, 4) of the inits; 16 more, all signs of v."""
    W = torch.nn.functional.normalize(torch.randn(NEURONS, 2, dtype=torch.float64), dim=-1) * 0.5
    v = -(0.8 + 0.4 * torch.rand(NEURONS, dtype=torch.float64))
    one = v.clone()
    one[0] = -v[0]
    freed = _group(W.clone(), v.clone())
    balance_(None, [freed], "unlock")
    Ws = [W, W, W, freed.members[0].tensor] + [W] * 2**NEURONS
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * NEURONS)
    free = freed.members[1].tensor[0]
    return torch.stack(Ws), torch.cat([torch.stack([v, one, 0.1 * v, free]), signs * v.abs()])


def _group(W: Tensor, v: Tensor) -> SymmetryGroup:
    members = (Member(W, 0, "W", "in"), Member(v[None], 1, "v", "out"))
    return SymmetryGroup(members, ("rescale",), activation="relu")


def _charge(W: Tensor, v: Tensor) -> Tensor:
    return W.square().sum(-1) - v.square()


def _train(W: Tensor, v: Tensor, steps: int) -> dict[str, Tensor]:
    """Full-batch GD, eta 0.01, on a ReLU teacher >= 0; losses every 100 steps, sign flips."""
    lr, X = RATE, torch.randn(200, 2, dtype=torch.float64)
    y = torch.relu(X @ torch.tensor([1.0, 0.4], dtype=torch.float64))
    signs, flips, losses = v.sign(), torch.zeros(len(W)), []
    for step in range(steps):
        hidden = torch.relu(X @ W.mT)  # (inits, 200, 4)
        off = (hidden @ v[..., None])[..., 0] - y
        if step % 100 == 0:
            losses.append(off.square().mean(-1) / 2)
        to_v = (off[..., None] * hidden).mean(1)
        to_W = (off[..., None] * (hidden > 0)).mT @ X / len(X) * v[..., None]
        W, v = W - lr * to_W, v - lr * to_v
        flips += (v.sign() != signs).sum(-1)
        signs = v.sign()
    losses.append((((torch.relu(X @ W.mT) @ v[..., None])[..., 0] - y).square().mean(-1)) / 2)
    return {"loss": torch.stack(losses), "flips": flips, "zero": y.square().mean() / 2,
            "charge": _charge(W, v), "signs": signs}  # fmt: skip


def _below_zero(d: int, hidden_std: float, out_std: float, draws: int) -> tuple[float, float]:
    """P(c < 0) at init: by the F distribution and by sampling."""
    from scipy.stats import f

    exact = float(f.sf(d * hidden_std**2 / out_std**2, 1, d))
    w = hidden_std * torch.randn(draws, d, dtype=torch.float64)
    v = out_std * torch.randn(draws, dtype=torch.float64)
    return exact, float((_charge(w, v) < 0).double().mean())


def run_obstruction(quick: bool) -> CaseResult:
    """Case 16: four hidden neurons on a non-negative target, from several inits."""
    torch.manual_seed(16)
    W, v = _inits()
    before = _charge(W, v)
    found = _train(W, v, 10_000 if quick else 40_000)
    stuck, zero, flips = float(found["loss"][-1, 0]), float(found["zero"]), found["flips"]
    drift = (found["charge"] - before).abs().amax(-1)  # (inits,)
    fall = found["loss"][0] - found["loss"][-1]
    limit = 1e-4 if quick else 1e-5
    checks = [
        near("all v < 0, c < 0: loss stuck at E[y^2]/2", OBSTRUCTION, zero, stuck, 1e-3),
        at_most("sign flips of v with c < 0", OBSTRUCTION, float(flips[0]), 0.0),
        at_most("one v > 0: final loss", OBSTRUCTION, float(found["loss"][-1, 1]), limit),
        at_most("all v < 0, c > 0: final loss", OBSTRUCTION, float(found["loss"][-1, 2]), 1e-3),
        Check("signs flip where c > 0", OBSTRUCTION, ">= 1", float(flips[2]), ">= 1",
              float(flips[2]) >= 1),
        # a step changes c by eta^2 (|dW|^2 - dv^2), and the loss by eta times their sum
        at_most("drift of c under GD over eta times the fall of the loss", "derived",
                float((drift / (RATE * fall)).max()), 1.2, "<= 1 + O(eta)"),
        at_most("the stuck net rescaled to c > 0: same function, off by", OBSTRUCTION,
                _difference(W, v, 0, 3), 1e-14),
        at_most("the stuck net rescaled to c > 0: final loss", OBSTRUCTION,
                float(found["loss"][-1, 3]), 1e-3),
        *_count(W, v, found),
    ]  # fmt: skip
    return CaseResult((*checks, *_at_init(200_000 if quick else 2_000_000)), _losses(found["loss"]))


def _difference(W: Tensor, v: Tensor, i: int, j: int) -> float:
    X = torch.randn(100, 2, dtype=torch.float64)
    out = (torch.relu(X @ W.mT) @ v[..., None])[..., 0]
    return float((out[i] - out[j]).abs().max())


def _count(W: Tensor, v: Tensor, found: dict[str, Tensor]) -> list[Check]:
    """All signs of v, all c < 0: each stays in a piece of its own, 2^l, l + 1 up to order."""
    charge = charge_of(_group(W[0], v[0]))
    assert charge is not None
    assert charge.components is not None
    pieces, classes = charge.components
    ends = found["signs"][len(INITS) :]
    return [
        near("l = 4 locked neurons: pieces after training from all signs", OBSTRUCTION,
             pieces, len(ends.unique(dim=0)), 0),
        near("up to an order of the neurons", OBSTRUCTION, classes,
             len((ends > 0).sum(1).unique()), 0),
        at_most("sign flips in all of them", OBSTRUCTION,
                float(found["flips"][len(INITS) :].sum()), 0.0),
    ]  # fmt: skip


def _at_init(draws: int) -> list[Check]:
    """How often usual inits lock a neuron."""
    checks: list[Check] = []
    for name, d, hidden, out in (("Kaiming d=2, l=10", 2, 1.0, math.sqrt(0.2)),
                                 ("Xavier d=2, l=10", 2, 1 / math.sqrt(12 / 2), math.sqrt(2 / 11)),
                                 ):  # fmt: skip
        exact, sampled = _below_zero(d, hidden, out, draws)
        error = math.sqrt(exact * (1 - exact) / draws)
        claim = f"{name}: P(c < 0) = P(F_1,d > d s_w^2 / s_v^2)"
        checks.append(near(claim, OBSTRUCTION, exact, sampled, 3 * error))
    return checks


def _losses(loss: Tensor) -> Curves:
    steps = [100.0 * i for i in range(len(loss))]
    series = tuple(Series(name, steps, loss[:, i].tolist()) for i, name in enumerate(INITS))
    caption = "Two-layer ReLU, 4 neurons: with v < 0 and c < 0 the sign of v can never change."
    return Curves("step", "loss", series, caption, yscale="log")


def _flow(s: Tensor, a0: float, dt: float, steps: int) -> Tensor:
    """Singular values of W2 W1 (steps + 1, k) on the gradient flow of |W2 W1 - T|^2 / 2, RK2."""
    k = len(s)
    left, right, mix = (torch.linalg.qr(torch.randn(k, k, dtype=torch.float64)).Q for _ in range(3))
    target = left @ torch.diag(s) @ right.T
    W2, W1 = math.sqrt(a0) * left @ mix, math.sqrt(a0) * mix.T @ right.T

    def slope(W2: Tensor, W1: Tensor) -> tuple[Tensor, Tensor]:
        off = target - W2 @ W1
        return off @ W1.T, W2.T @ off

    path = [torch.diagonal(left.T @ W2 @ W1 @ right)]
    for _ in range(steps):
        a, b = slope(W2, W1)
        a, b = slope(W2 + dt / 2 * a, W1 + dt / 2 * b)
        W2, W1 = W2 + dt * a, W1 + dt * b
        path.append(torch.diagonal(left.T @ W2 @ W1 @ right))
    return torch.stack(path)


def run_saddles(quick: bool) -> CaseResult:
    """Case 17: a two-layer linear net gains one rank after another, as the logistic law says."""
    torch.manual_seed(17)
    s, dt, end = torch.tensor(MODES, dtype=torch.float64), 1e-3, 15.0
    # the mid-point rule is of second order: 2e-3 keeps the error below the tolerance
    dt = 2e-3 if quick else dt
    path = _flow(s, A0, dt, round(end / dt))
    t = torch.arange(len(path), dtype=torch.float64) * dt
    exact = s / (1 + (s / A0 - 1) * torch.exp(-2 * s * t[:, None]))
    checks = [
        at_most("a_i(t) = s_i / (1 + (s_i/a0 - 1) exp(-2 s_i t))", SADDLES,
                float((path - exact).abs().max()), 1e-4),
    ]  # fmt: skip
    for i, value in enumerate(MODES):
        half = math.log(value / A0 - 1) / (2 * value)
        reached = float(t[int((path[:, i] < value / 2).sum())])
        claim = f"mode {i + 1} (s = {value:g}): half-time ln(s/a0 - 1) / 2s"
        checks.append(near(claim, SADDLES, half, reached, 2 * dt))
    series: list[Series] = []
    for i, value in enumerate(MODES):
        thin = slice(None, None, 100)
        series += [
            Series("", t[thin].tolist(), path[thin, i].tolist(), "points", i),
            Series(f"s = {value:g}", t[thin].tolist(), exact[thin, i].tolist(), "line", i),
        ]
    caption = "Points: measured; lines: the law. Each jump breaks one symmetry: rank + 1 of W2 W1."
    return CaseResult(tuple(checks), Curves("time", "singular value", tuple(series), caption))


CASES = (
    Case(16, "topological obstruction", OBSTRUCTION, run_obstruction),
    Case(17, "saddle-to-saddle logistic law", SADDLES, run_saddles),
)
