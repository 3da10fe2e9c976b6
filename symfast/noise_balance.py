# SPDX-License-Identifier: Apache-2.0
"""Noise equilibrium of two linear layers: where SGD noise leaves the charge W W^T - U^T U.

One step of SGD on f = U W x with batches of S, ``delta = dl/df`` and decay lam moves the charge
``C = W W^T - U^T U`` by ``-2 eta lam C + eta^2/S (U^T Gamma_U U - W Gamma_W W^T)`` on average;
gradient descent conserves it. Source: Ziyin et al., "Parameter Symmetry and Noise Equilibrium of
Stochastic Gradient Descent", NeurIPS 2024; the discrete form is derived.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseBalance:
    """Both sides of the balance, (..., r, r) over the r hidden channels.

    Attributes:
        input_side: ``W Gamma_W W^T`` with ``Gamma_W = E[|delta|^2 x x^T]``.
        output_side: ``U^T Gamma_U U`` with ``Gamma_U = E[|x|^2 delta delta^T]``.
        charge: ``W W^T - U^T U``, measured.
    """

    input_side: Tensor
    output_side: Tensor
    charge: Tensor

    @property
    def imbalance(self) -> Tensor:
        """``||input - output||_F / (||input||_F + ||output||_F)`` (...): 0 at equilibrium, <= 1."""
        norms = torch.linalg.matrix_norm
        total = norms(self.input_side) + norms(self.output_side)
        off: Tensor = norms(self.input_side - self.output_side)
        return off / torch.where(total > 0, total, 1)

    def predicted_charge(self, lr: float, weight_decay: float, batch_size: int = 1) -> Tensor:
        """Charge (..., r, r) at equilibrium under decay: ``eta/(2 lam S) (output - input)``.

        Raises:
            ValueError: unless weight_decay > 0: without decay both sides are equal instead.
        """
        if not weight_decay > 0:
            raise ValueError(
                f"weight_decay must be positive, got {weight_decay}; without decay the "
                "equilibrium is input_side == output_side, see imbalance"
            )
        factor = lr / (2 * weight_decay * batch_size)
        return factor * (self.output_side - self.input_side)


def noise_balance(x: Tensor, delta: Tensor, W: Tensor, U: Tensor) -> NoiseBalance:
    """Compare the two sides of the noise equilibrium of ``f = U W x``.

    The Gamma matrices are weighted Gram matrices: no gradient of a single sample is formed.

    Args:
        x: (..., n, dx) inputs of the first layer, one row per sample.
        delta: (..., n, dy) per-sample gradient of the loss with respect to f.
        W: (..., r, dx) first layer.
        U: (..., dy, r) second layer.

    Raises:
        ValueError: if the shapes do not fit, or there is no sample.

    Example:
        >>> import torch
        >>> from symfast.noise_balance import noise_balance
        >>> x, delta = torch.eye(2), torch.eye(2)
        >>> noise_balance(x, delta, torch.ones(1, 2), torch.ones(2, 1)).imbalance
        tensor(0.)
    """
    n = x.shape[-2] if x.ndim > 1 else 0
    if n == 0 or delta.ndim < 2 or delta.shape[-2] != n:
        raise ValueError(
            f"x {tuple(x.shape)} and delta {tuple(delta.shape)} must have shapes (..., n, dx) and "
            "(..., n, dy) with the same n >= 1 samples"
        )
    if W.shape[-1] != x.shape[-1] or U.shape[-2] != delta.shape[-1] or W.shape[-2] != U.shape[-1]:
        raise ValueError(
            f"W {tuple(W.shape)} and U {tuple(U.shape)} must have shapes (..., r, {x.shape[-1]}) "
            f"and (..., {delta.shape[-1]}, r)"
        )
    hidden = x @ W.mT * delta.square().sum(-1, keepdim=True).sqrt()  # (..., n, r)
    back = delta @ U * x.square().sum(-1, keepdim=True).sqrt()
    charge = W @ W.mT - U.mT @ U
    return NoiseBalance(hidden.mT @ hidden / n, back.mT @ back / n, charge)
