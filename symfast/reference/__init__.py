# SPDX-License-Identifier: Apache-2.0
"""The pure-Python reference of every operator, under the names of the public functions."""

from symfast.reference.mirror import coefficients, norms, project, prox, reflect, shrink

__all__ = ["coefficients", "norms", "project", "prox", "reflect", "shrink"]
