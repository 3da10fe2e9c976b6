# SPDX-License-Identifier: Apache-2.0
"""Symmetries of neural networks as fast torch operators."""

from symfast import problems as problems
from symfast import reference as reference
from symfast.balance import balance_ as balance_
from symfast.build import build_info as build_info
from symfast.charges import charges as charges
from symfast.compress import CompressionProof as CompressionProof
from symfast.compress import compress as compress
from symfast.find import SymmetryGroups as SymmetryGroups
from symfast.find import find_symmetries as find_symmetries
from symfast.inspect import inspect as inspect
from symfast.mirror import coefficients as coefficients
from symfast.mirror import norms as norms
from symfast.mirror import project as project
from symfast.mirror import prox as prox
from symfast.mirror import reflect as reflect
from symfast.mirror import shrink as shrink
from symfast.monitor import monitor as monitor
from symfast.plan import Plan as Plan
from symfast.sweep import SweepResult as SweepResult
from symfast.sweep import sweep as sweep
from symfast.symmetry import Cluster as Cluster
from symfast.symmetry import Direction as Direction
from symfast.symmetry import Mirror as Mirror
from symfast.symmetry import SignFlip as SignFlip
from symfast.symmetry import Swap as Swap
from symfast.symmetry import symmetry_from_dict as symmetry_from_dict
from symfast.symmetry_group import Member as Member
from symfast.symmetry_group import SymmetryGroup as SymmetryGroup
from symfast.units import Units as Units
