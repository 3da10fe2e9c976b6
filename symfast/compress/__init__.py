# SPDX-License-Identifier: Apache-2.0
"""Cut out of a model what does nothing, and prove that the function is the same."""

from symfast.compress.attention import SlimAttention as SlimAttention
from symfast.compress.compression import compress as compress
from symfast.compress.record import CompressionProof as CompressionProof
from symfast.compress.record import Step as Step
