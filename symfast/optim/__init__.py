# SPDX-License-Identifier: Apache-2.0
"""torch.optim optimizers whose step also applies a plan, gradient noise and anchored decay."""

from symfast.optim.adam import Adam as Adam
from symfast.optim.adam import AdamW as AdamW
from symfast.optim.sgd import SGD as SGD

__all__ = ["SGD", "Adam", "AdamW"]
