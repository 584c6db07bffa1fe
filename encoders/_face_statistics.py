"""Statistics over the frames of recordings, as a torch module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FaceStatistics", "statistic_names"]


def statistic_names(percentiles: Sequence[float], deltas: bool) -> list[str]:
    """Return the names of the statistics of a signal, in the order of the module's output."""
    names = ["mean", "sd", *(f"p{percentile:g}" for percentile in percentiles)]
    return [*names, *(["delta_mean", "delta_sd"] if deltas else [])]


class FaceStatistics(nn.Module):
    """Mean, standard deviation, percentiles and change of each signal, and rates of flags.

    Each recording is treated as if it were alone: padding is NaN and reaches no statistic. A
    signal of which no frame is known gives NaN.

    Parameters
    ----------
    n_signals : int
    percentiles : sequence of float
    deltas : bool
    mean_only : bool
        Give the means of signals and nothing else, as for pictures.
    """

    def __init__(
        self,
        n_signals: int,
        *,
        percentiles: Sequence[float],
        deltas: bool,
        mean_only: bool,
    ) -> None:
        super().__init__()
        self.n_signals, self.deltas, self.mean_only = n_signals, deltas, mean_only
        levels = torch.as_tensor([p / 100 for p in percentiles], dtype=torch.float64)
        self.register_buffer("levels", levels, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Return features (n, width) of recordings (n, longest, 1 + n_signals + n_flags).

        The first channel is 1 for a frame that is used, 0 for one that is not, NaN for padding.
        """
        frames = frames.double()
        signals = frames[:, :, 1 : 1 + self.n_signals]
        mean, sd = _moments(signals)
        if self.mean_only:
            return mean.float()
        parts = [mean, sd, *_quantiles(signals, self.levels)]
        if self.deltas:
            steps = signals[:, 1:] - signals[:, :-1]  # NaN beside a frame that is not used
            parts += [_moments(steps.abs())[0], _moments(steps)[1]]
        by_signal = torch.stack(parts, dim=2).flatten(1)
        rates = _moments(frames[:, :, 1 + self.n_signals :])[0]
        found = _moments(frames[:, :, :1])[0]
        return torch.cat([by_signal, rates, found], dim=1).float()


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over axis 1 of what is not NaN; NaN where nothing is known."""
    known = ~values.isnan()
    count = known.sum(dim=1)
    total = torch.where(known, values, 0.0).sum(dim=1)
    mean = total / count  # 0 / 0 is NaN
    off = torch.where(known, values - mean[:, None], 0.0)
    return mean, (off.square().sum(dim=1) / count).sqrt()


def _quantiles(values: Tensor, levels: Tensor) -> list[Tensor]:
    """Quantiles over axis 1 of what is not NaN, by linear interpolation."""
    ordered = values.sort(dim=1).values  # NaN comes last
    last = (~values.isnan()).sum(dim=1) - 1
    found = []
    for level in levels:
        place = level * last.clamp(min=0)
        low = place.floor().long()
        high = torch.minimum(low + 1, last.clamp(min=0))
        share = place - low
        a = ordered.gather(1, low[:, None])[:, 0]
        b = ordered.gather(1, high[:, None])[:, 0]
        found.append(a + share * (b - a))
    return found
