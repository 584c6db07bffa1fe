"""Fine-tuning: encoders trained by the estimators, together with a head."""

from mmfuse.finetune.params import FineTuning

__all__ = ["FineTuning"]
