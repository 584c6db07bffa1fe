"""ModalityTable, the container for raw modalities, and how it reads and prints."""

from mmfuse.table.columns import stack_numeric
from mmfuse.table.modality_table import ModalityTable

__all__ = ["ModalityTable", "stack_numeric"]
