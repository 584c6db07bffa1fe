"""One convex solver for linear fusion, many problems at once."""

from __future__ import annotations

from mmfuse.solver.batched import LinearProblems, LinearSolution
from mmfuse.solver.ordinal import OrdinalProblems, OrdinalSolution

__all__ = ["LinearProblems", "LinearSolution", "OrdinalProblems", "OrdinalSolution"]
