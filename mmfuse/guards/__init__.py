"""Guards against self-deception: shared people, repeated rows, modalities that know the answer."""

from mmfuse.guards.duplicates import Duplicates, find_duplicates
from mmfuse.guards.groups import check_disjoint, forget_training
from mmfuse.guards.leaks import LeakReport, find_leaks

__all__ = [
    "Duplicates",
    "LeakReport",
    "check_disjoint",
    "find_duplicates",
    "find_leaks",
    "forget_training",
]
