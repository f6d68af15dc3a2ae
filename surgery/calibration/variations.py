"""Recordings made to sound otherwise: other voices, noise, a telephone.

A few recordings of one speaker in one room leave directions out that other speakers need. Every
recording is still heard once, so variety costs no time: each takes its turn of the variations.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import butter, resample_poly, sosfilt

from surgery.evaluation.audio import SAMPLE_RATE, Audio

NOISE = 10 ** (-20 / 20)  # of the recording's root mean square: 20 dB below it
TELEPHONE = 3600  # Hz


def vary(audio: Audio, turn: int) -> Audio:
    """Return a recording as the ``turn``-th of a set is heard.

    In turn: as it is, faster and higher (5/4), slower and lower (4/5), with white noise 20 dB
    below it, and low-passed at 3.6 kHz. The same turn of the same recording is the same.

    Args:
        audio: Mono float32 at 16 kHz, shape (samples,).
        turn: Its number in the set.
    """
    match turn % 5:
        case 1:
            return _resampled(audio, 4, 5)
        case 2:
            return _resampled(audio, 5, 4)
        case 3:
            noise = np.random.default_rng(turn).standard_normal(audio.size)
            loud = np.sqrt(np.square(audio, dtype=np.float64).mean())
            return np.asarray(audio + NOISE * loud * noise, dtype=np.float32)
        case 4:
            low = butter(8, TELEPHONE, fs=SAMPLE_RATE, output="sos")
            return np.asarray(sosfilt(low, audio), dtype=np.float32)
    return audio


def _resampled(audio: Audio, up: int, down: int) -> Audio:
    return np.asarray(resample_poly(audio, up, down), dtype=np.float32)
