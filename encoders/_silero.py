"""Probability of speech by the network of Silero VAD, from the weights that its package ships.

The package itself is not imported: that would set the number of torch threads of the process and
import torchaudio. Chunks pass the convolutions together, where the original takes one at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmfuse import weights
from mmfuse.encoders._modules import shared_module

__all__ = ["SileroNet", "speech_probability", "speech_weights_hash"]

_NAME = "silero-vad-16k"
_CHUNK, _BEFORE, _AFTER = 512, 64, 64  # samples at 16 kHz
_BINS = 129
_TOGETHER = 1024  # chunks that pass the convolutions together


class SileroNet(nn.Module):
    """The network of Silero VAD 6 for 16 kHz (Silero Team 2024, github.com/snakers4/silero-vad).

    Its file names an LSTM cell; the same weights serve `torch.nn.LSTM` here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * _BINS, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(_BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, wave: Tensor) -> Tensor:
        """Return the probability of speech (n_chunks,) in every 512 samples of (n_samples,).

        Behind the end there are zeros, before the start too.
        """
        wave = nn.functional.pad(wave, (_BEFORE, -len(wave) % _CHUNK))
        chunks = wave.unfold(0, _BEFORE + _CHUNK, _CHUNK)  # each begins with the end of the last
        heard = torch.cat([self._features(part) for part in chunks.split(_TOGETHER)])
        x = self.lstm(heard)[0].relu()
        return self.final_conv(x[:, :, None]).sigmoid().flatten()

    def _features(self, chunks: Tensor) -> Tensor:
        chunks = nn.functional.pad(chunks[:, None], (0, _AFTER), mode="reflect")
        waves = self.stft_conv(chunks)
        x = (waves[:, :_BINS].square() + waves[:, _BINS:].square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = layer(x).relu()
        return x.squeeze(2)


def _load() -> SileroNet:
    state = load_file(weights.checked(_NAME))
    state = {
        f"lstm.{name.removeprefix('lstm_cell.')}_l0" if name.startswith("lstm_cell.") else name: one
        for name, one in state.items()
    }
    net = SileroNet()
    net.load_state_dict(state)
    return net.eval()


def speech_probability(wave: np.ndarray) -> np.ndarray:
    """Return the probability of speech in every 512 samples at 16 kHz."""
    net = shared_module(_NAME, _load)
    with torch.inference_mode():
        return net(torch.from_numpy(wave)).numpy()


def speech_weights_hash() -> str:
    """Return the SHA-256 of the weights."""
    return weights.file_hash(weights.checked(_NAME))
