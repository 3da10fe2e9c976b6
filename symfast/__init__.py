# SPDX-License-Identifier: Apache-2.0
"""Symmetries of neural networks as fast torch operators."""

from symfast import problems as problems
from symfast import reference as reference
from symfast import schedule as schedule
from symfast.build import build_info as build_info
from symfast.dcs import dcs as dcs
from symfast.factor_sgd import FactorSGD as FactorSGD
from symfast.factor_sgd import plain_groups as plain_groups
from symfast.factorize import factor_groups as factor_groups
from symfast.factorize import factorize as factorize
from symfast.fold import fold as fold
from symfast.low_rank import low_rank as low_rank
from symfast.mirror import coefficients as coefficients
from symfast.mirror import norms as norms
from symfast.mirror import project as project
from symfast.mirror import prox as prox
from symfast.mirror import reflect as reflect
from symfast.mirror import shrink as shrink
from symfast.plan import Plan as Plan
from symfast.polar import polar as polar
from symfast.removal import remove_symmetry as remove_symmetry
from symfast.schedule import PenaltySchedule as PenaltySchedule
from symfast.sweep import SweepResult as SweepResult
from symfast.sweep import sweep as sweep
from symfast.symmetry import Cluster as Cluster
from symfast.symmetry import Direction as Direction
from symfast.symmetry import Mirror as Mirror
from symfast.symmetry import SignFlip as SignFlip
from symfast.symmetry import Swap as Swap
from symfast.symmetry import symmetry_from_dict as symmetry_from_dict
from symfast.threshold import PenaltyThreshold as PenaltyThreshold
from symfast.threshold import penalty_threshold as penalty_threshold
from symfast.tucker import tucker as tucker
from symfast.units import Units as Units
