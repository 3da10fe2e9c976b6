# SPDX-License-Identifier: Apache-2.0
"""Random problems for the CUDA sweep kernels, and the call of their emulated launcher."""

import ctypes

import emulated
import torch
from torch import Tensor

POINTERS = (
    "gram", "linear", "factored", "depth", "lr", "momentum", "lam", "schedule", "kind", "group",
    "weight", "factors", "velocity", "steps_used", "residual", "status", "progress",
)  # fmt: skip
SIZES = ("kinds", "replicas", "d", "max_depth", "steps", "check_every")


def problem(
    replicas: int, slots: int, d: int, dtype: torch.dtype, gated: bool = False
) -> dict[str, Tensor]:
    """Random depths, rates and two schedules of 200 steps; gated in groups of about three."""
    X = torch.randn(4 * d + 1, d, dtype=torch.float64)
    x = {
        "gram": X.T @ X / len(X),
        "linear": torch.randn(d, dtype=torch.float64),
        "lr": 0.02 * torch.rand(replicas, dtype=torch.float64),
        "momentum": 0.9 * torch.rand(replicas, dtype=torch.float64),
        "lam": torch.rand(replicas, dtype=torch.float64),
        "factors": 0.5 + 0.5 * torch.randn(replicas, slots, d, dtype=torch.float64),
        "velocity": 0.01 * torch.randn(replicas, slots, d, dtype=torch.float64),
    }
    x = {name: value.to(dtype) for name, value in x.items()}
    x["factored"] = torch.rand(d) > 0.3
    x["depth"] = torch.randint(1, slots + 1, (replicas,))
    x["schedule"] = torch.stack([torch.ones(200), torch.linspace(2, 0, 200)]).to(dtype)
    x["kind"] = torch.arange(replicas) % 2
    x["group"] = torch.zeros(0, dtype=torch.int64)
    if gated:
        begins = torch.rand(d) < 0.3
        begins |= ~x["factored"] | ~x["factored"].roll(1) | (torch.arange(d) == 0)
        x["group"] = torch.where(begins, torch.arange(d), 0).cummax(0).values
        gates = x["factors"][:, 1:].index_select(2, x["group"])
        x["factors"] = torch.cat([x["factors"][:, :1], gates], 1)
        x["velocity"][:, 1:] = 0
    return x


def run(
    x: dict[str, Tensor], steps: int, tol: float, emulator: emulated.Emulator, cancel: bool = False
) -> dict[str, Tensor]:
    """One sweep in the emulator; outputs start as NaN, so what nobody wrote shows."""
    (replicas, slots, d), dtype = x["factors"].shape, x["factors"].dtype
    x = {name: value.clone() for name, value in x.items()}
    x["schedule"] = x["schedule"][:, :steps].contiguous()
    x |= {"weight": x["lr"].new_full((replicas, d), torch.nan), "residual": x["lr"] * torch.nan}
    x |= {"steps_used": x["depth"] * 0 - 1, "status": x["depth"] * 0 - 1}
    x["progress"] = torch.tensor([0, int(cancel)])
    kind = ctypes.c_double if dtype == torch.float64 else ctypes.c_float
    fields = [(name, ctypes.c_void_p) for name in POINTERS]
    fields += [(name, ctypes.c_int64) for name in SIZES]
    structure = type("Arguments", (ctypes.Structure,), {"_fields_": [*fields, ("tol", kind)]})
    emulator.start()
    addresses = [emulator.allow(name, x[name]) for name in POINTERS]
    if len(x["group"]) == 0:
        addresses[POINTERS.index("group")] = None
    call = structure(*addresses, len(x["schedule"]), replicas, d, slots, steps, 10, tol)
    emulator.call("emulated_factor_sweep", call, 48 * 1024)
    emulator.check()
    return x
