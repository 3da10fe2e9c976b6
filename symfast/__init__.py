# SPDX-License-Identifier: Apache-2.0
"""Symmetries of neural networks as fast torch operators."""

from symfast import optim as optim
from symfast import problems as problems
from symfast import reference as reference
from symfast.anchor import Anchor as Anchor
from symfast.build import build_info as build_info
from symfast.mirror import coefficients as coefficients
from symfast.mirror import norms as norms
from symfast.mirror import project as project
from symfast.mirror import prox as prox
from symfast.mirror import reflect as reflect
from symfast.mirror import shrink as shrink
from symfast.plan import Plan as Plan
from symfast.sweep import SweepResult as SweepResult
from symfast.sweep import sweep as sweep
from symfast.symmetry import Cluster as Cluster
from symfast.symmetry import Direction as Direction
from symfast.symmetry import Mirror as Mirror
from symfast.symmetry import SignFlip as SignFlip
from symfast.symmetry import Swap as Swap
from symfast.symmetry import symmetry_from_dict as symmetry_from_dict
from symfast.units import Units as Units
