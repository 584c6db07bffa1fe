"""The training loop: steps that are a function of their number, early stopping, checkpoints."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import ceil, cos, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse._random import seeded
from mmfuse.finetune.checkpoint import Progress, Store, pack_optimiser, unpack_optimiser
from mmfuse.finetune.joint import JointModel
from mmfuse.finetune.modes import trained
from mmfuse.finetune.params import FineTuning
from mmfuse.finetune.ranks import Ranks
from mmfuse.finetune.rows import Samples
from mmfuse.finetune.split import RowSplit
from mmfuse.patterns import draw_presence

__all__ = ["Trainer"]

_AUTO_LR = {True: 1e-4, "head": 1e-4, "lora": 1e-3}


class Trainer:
    """One training of a `JointModel`.

    Parameters
    ----------
    model : JointModel
        Ready to learn; changed in place.
    samples : Samples
    rows : RowSplit
    plan : FineTuning
    modes : dict of str to mode
        ``trainable`` of every encoder that is trained.
    ranks : Ranks
    store : Store or None
    seed : int
    verbose : int
    """

    def __init__(
        self,
        model: JointModel,
        samples: Samples,
        rows: RowSplit,
        plan: FineTuning,
        modes: dict[str, Any],
        ranks: Ranks,
        store: Store | None,
        seed: int,
        verbose: int,
    ) -> None:
        self.model, self.samples, self.rows, self.plan = model, samples, rows, plan
        self.modes, self.ranks, self.store = modes, ranks, store
        self.seed, self.verbose = seed, verbose
        self.presence = model.present.cpu()
        self.names, self.parameters = zip(*trained(model).items(), strict=True)
        self.optimiser = torch.optim.AdamW(self._groups(), betas=(0.9, 0.999))
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.scaler = self._precision()
        weight = torch.stack(model.weights).sum(dim=0).cpu().numpy()
        self.train = rows.train[weight[rows.train] > 0]
        self.per_step = plan.batch_size * plan.accumulate * ranks.count
        self.steps = ceil(len(self.train) / self.per_step)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by rate and by whether they decay."""
        plan, groups = self.plan, {}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            kind, place, *_ = name.split(".")
            rate: Any = plan.head_lr
            if kind == "parts":
                mode = list(self.modes.values())[int(place)]
                rate = _AUTO_LR[mode] if plan.encoder_lr == "auto" else plan.encoder_lr
            decay = plan.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((float(rate), decay), []).append(parameter)
        return [
            {"params": members, "lr": rate, "weight_decay": decay}
            for (rate, decay), members in groups.items()
        ]

    def _precision(self) -> torch.amp.GradScaler | None:
        """Set the model's autocast; a scaler where float16 needs one."""
        kind, device = self.plan.amp, torch.device(self.model.device).type
        if kind == "auto":
            kind = False
            if device == "cuda":
                kind = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
        if kind == "float16" and device == "cpu":
            raise ValueError(
                "FineTuning: amp='float16' needs a GPU, and this model trains on the CPU; use "
                "amp='auto', 'bfloat16' or False."
            )
        if kind:
            self.model.autocast = torch.autocast(device, dtype=getattr(torch, str(kind)))
        self.amp = kind
        return torch.amp.GradScaler(device) if kind == "float16" else None

    def run(self) -> None:
        """Train until patience or epochs end; the best epoch's weights are then in the model."""
        with _training_state(self.seed):
            self.ranks.same(self.parameters)
            if not self._resume():
                self._validate()
                self._keep()
            while not self._done():
                self._epoch()
                self._validate()
                self._save()
        with torch.no_grad():
            for name, parameter in zip(self.names, self.parameters, strict=True):
                parameter.copy_(self.best[name])
        self.model.eval()

    def _done(self) -> bool:
        progress = self.progress
        waited = progress.epoch - progress.best if len(self.rows.stop) else 0
        return progress.epoch >= self.plan.epochs or waited >= self.plan.patience

    def _epoch(self) -> None:
        progress = self.progress
        order = np.random.default_rng([self.seed, progress.epoch]).permutation(self.train)
        steps = [
            order[start : start + self.per_step]
            for start in range(self.per_step * progress.step, len(order), self.per_step)
        ]
        with self._bar(len(steps)) as bar:
            for rows in steps:
                progress.total += self._step(rows)
                progress.step += 1
                if bar is not None:
                    bar.set_postfix(loss=f"{progress.total / progress.step:.4f}")
                    bar.update()
                every = self.plan.checkpoint_every
                if every and progress.step % every == 0 and progress.step < self.steps:
                    self._save()
        progress.train_loss.append(progress.total / self.steps)
        progress.epoch, progress.step, progress.total = progress.epoch + 1, 0, 0.0

    def _bar(self, total: int) -> Any:
        if not self.verbose or self.ranks.index:
            return nullcontext()
        from tqdm.auto import tqdm

        label = f"fine-tuning, epoch {self.progress.epoch + 1} of at most {self.plan.epochs}"
        return tqdm(total=total, desc=label, unit="step", leave=False)

    def _step(self, rows: np.ndarray) -> float:
        """One step of the optimiser on ``rows`` of all processes; returns their mean loss."""
        plan, model = self.plan, self.model
        number = self.progress.epoch * self.steps + self.progress.step
        generator = torch.Generator().manual_seed(_mix(self.seed, number))
        present = draw_presence(self.presence[rows], plan.modality_dropout, generator).numpy()
        total = torch.stack([weight[rows].sum() for weight in model.weights])
        share = 1 / (total.clamp(min=1e-12) * len(total))  # mean over rows, then over targets
        mine = self.ranks.share(np.arange(len(rows)))
        parts = [mine[i : i + plan.batch_size] for i in range(0, len(mine), plan.batch_size)]
        model.learn(self.modes)
        self.optimiser.zero_grad(set_to_none=True)
        sum_of_loss = 0.0
        batches = self.samples.batches([(rows[part], present[part]) for part in parts])
        for i, batch in enumerate(batches):
            torch.manual_seed(_mix(self.seed, number, i * self.ranks.count + self.ranks.index))
            loss = (model(batch) * share).sum()
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            sum_of_loss += float(loss.detach())
        loss_of_step = self.ranks.sum([sum_of_loss])[0]
        if not np.isfinite(loss_of_step):
            raise FloatingPointError(
                f"Fine-tuning came to a loss of {loss_of_step} in epoch {self.progress.epoch + 1}; "
                "lower encoder_lr in FineTuning, or set amp=False."
            )
        self._move(number)
        return loss_of_step

    def _move(self, number: int) -> None:
        """Clip, set the rates of step ``number``, and change the parameters."""
        self.ranks.sum_gradients(self.parameters)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.max_norm)
        scale = _schedule(number, self.plan.epochs * self.steps, self.plan.warmup)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        if self.scaler is None:
            self.optimiser.step()
        else:
            self.scaler.step(self.optimiser)
            self.scaler.update()

    def _validate(self) -> None:
        """Loss of the validation rows as they are; keep the weights where it is the lowest."""
        progress, rows = self.progress, self.rows.stop
        if not len(rows):
            progress.best = progress.epoch
            self._keep()
            return
        mine = self.ranks.share(rows)
        size = self.plan.batch_size
        parts = [mine[i : i + size] for i in range(0, len(mine), size)]
        present = self.presence.numpy()
        total = torch.zeros(len(self.model.targets), dtype=torch.float64)
        self.model.eval()
        with torch.no_grad():
            for batch in self.samples.batches((part, present[part]) for part in parts):
                total += self.model(batch).cpu()
        weight = [float(weight[rows].sum()) for weight in self.model.weights]
        sums = self.ranks.sum(total.tolist())
        loss = float(np.mean([s / max(w, 1e-12) for s, w in zip(sums, weight, strict=True)]))
        progress.validation_loss.append(loss)
        if loss <= min(progress.validation_loss):
            progress.best = progress.epoch
            self._keep()

    def _keep(self) -> None:
        """Copy the parameters as those of the best epoch."""
        self.best = {
            name: parameter.detach().cpu().clone()
            for name, parameter in zip(self.names, self.parameters, strict=True)
        }

    def _save(self) -> None:
        if self.store is not None and self.ranks.index == 0:
            tensors = {
                f"now.{name}": parameter
                for name, parameter in zip(self.names, self.parameters, strict=True)
            }
            tensors |= {f"best.{name}": value for name, value in self.best.items()}
            tensors |= pack_optimiser(self.optimiser, list(self.parameters))
            plain = {} if self.scaler is None else {"scaler": self.scaler.state_dict()}
            self.store.write(self.progress, plain, tensors)

    def _resume(self) -> bool:
        """Take up what a checkpoint holds."""
        found = None if self.store is None else self.store.read()
        self._same_place(found)
        self.ranks.wait()  # nobody writes before all have read
        if found is None:
            return False
        self.progress, plain, tensors = found
        with torch.no_grad():
            for name, parameter in zip(self.names, self.parameters, strict=True):
                parameter.copy_(tensors[f"now.{name}"])
        self.best = {name: tensors[f"best.{name}"] for name in self.names}
        unpack_optimiser(self.optimiser, list(self.parameters), tensors)
        if self.scaler is not None:
            self.scaler.load_state_dict(plain["scaler"])
        return True

    def _same_place(self, found: Any) -> None:
        """Raise where processes read different states."""
        here = -1.0 if found is None else float(found[0].epoch * self.steps + found[0].step)
        mean = self.ranks.sum([here])[0] / self.ranks.count
        apart = self.ranks.sum([abs(here - mean)])[0]
        if apart > 0:
            raise ValueError(
                f"FineTuning: checkpoint={self.plan.checkpoint!r} does not hold the same state for "
                "all processes; name a folder that all of them share, or start from an empty one."
            )


def _schedule(number: int, total: int, warmup: float) -> float:
    """Factor on the learning rates in step ``number`` of ``total``: up in a line, down a cosine."""
    rising = int(warmup * total)
    if number < rising:
        return (number + 1) / (rising + 1)
    return 0.5 * (1 + cos(pi * (number - rising) / max(total - rising, 1)))


def _mix(*numbers: int) -> int:
    """A seed for the generators of one step."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def _training_state(seed: int) -> Iterator[None]:
    """Seed what networks draw from, and give the caller's generators back.

    The fast path of torch's transformer layers is off, since it would pass adapters by.
    """
    before, plain = np.random.get_state(), random.getstate()
    fast = torch.backends.mha.get_fastpath_enabled()
    with seeded(seed):
        np.random.seed(seed % 2**32)
        random.seed(seed)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            np.random.set_state(before)
            random.setstate(plain)
