# SPDX-License-Identifier: Apache-2.0
"""Symmetries of neural networks as fast torch operators."""

from symfast import problems as problems
from symfast import reference as reference
from symfast.align import align as align
from symfast.align import loss_barrier as loss_barrier
from symfast.alignment import alignments as alignments
from symfast.build import build_info as build_info
from symfast.compress import CompressionProof as CompressionProof
from symfast.compress import compress as compress
from symfast.find import SymmetryGroups as SymmetryGroups
from symfast.find import find_symmetries as find_symmetries
from symfast.mirror import coefficients as coefficients
from symfast.mirror import norms as norms
from symfast.mirror import project as project
from symfast.mirror import prox as prox
from symfast.mirror import reflect as reflect
from symfast.mirror import shrink as shrink
from symfast.noise_balance import noise_balance as noise_balance
from symfast.plan import Plan as Plan
from symfast.polar import polar as polar
from symfast.stability import StabilityReport as StabilityReport
from symfast.stability import stability as stability
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
from symfast.verify.run import VerifyReport as VerifyReport
from symfast.verify.run import verify as verify
