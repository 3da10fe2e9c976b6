# SPDX-License-Identifier: Apache-2.0
"""Problems whose whole training runs inside one kernel call; `symfast.sweep` trains them."""

from symfast.problems.coordinates import ORTHONORMAL as ORTHONORMAL
from symfast.problems.factorized import Factorized as Factorized
from symfast.problems.module import Module as Module
from symfast.problems.order_parameters import SUPPORT as SUPPORT
from symfast.problems.problem import Problem as Problem
from symfast.problems.two_layer import TwoLayer as TwoLayer

__all__ = ["ORTHONORMAL", "SUPPORT", "Factorized", "Module", "Problem", "TwoLayer"]
