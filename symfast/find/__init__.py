# SPDX-License-Identifier: Apache-2.0
"""Find the symmetries of a real model, and prove each one."""

from symfast.find.search import SymmetryGroups as SymmetryGroups
from symfast.find.search import find_symmetries as find_symmetries
