"""Dialled digits as audio: the only sound ``whisper-micro`` ever hears.

A clip is a few DTMF tones (two sines a digit, one for the row and one for the column of a
telephone's key pad), each with its own duration, level, frequency error and balance of the
two sines, with gaps between them and noise under everything. One integer makes one clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # Hz, Whisper's own

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Row and column frequencies of the key pad, Hz (ITU-T Q.23).
ROWS = (697.0, 770.0, 852.0, 941.0)
COLUMNS = (1209.0, 1336.0, 1477.0)
KEYS = {0: (3, 1), **{digit: ((digit - 1) // 3, (digit - 1) % 3) for digit in range(1, 10)}}

TONE_SECONDS = (0.06, 0.14)
GAP_SECONDS = (0.04, 0.26)
RAMP_SECONDS = 0.005  # raised cosine at both ends of a tone, so that it does not click
LEVEL_DB = (-30.0, -10.0)  # RMS of a clip's tones, relative to full scale
TONE_DB = (-3.0, 3.0)  # of one tone around its clip's level
TWIST_DB = (-4.0, 4.0)  # of a tone's column sine over its row sine
DETUNE = 0.015  # largest relative frequency error: what a telephone exchange must accept
SNR_DB = (10.0, 40.0)  # of the tones over the noise
BITS = 12  # a sample's: coarse enough that FLAC packs the noise well

LONGEST = 6  # digits
WINDOW_SECONDS = 3  # what the model hears at once; the longest clip is 2.7 s


@dataclass(frozen=True)
class Clip:
    """A synthetic recording.

    Attributes:
        audio: float32 samples in [-1, 1], shape (samples,), 16 kHz, at most ``WINDOW_SECONDS``.
        digits: The digits it holds.
        spans: First sample and end of each digit's tone.
    """

    audio: NDArray[np.float32]
    digits: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        """The transcript: words with one space between."""
        return " ".join(WORDS[digit] for digit in self.digits)


def dial(seed: int, *, shortest: int = 2, longest: int = LONGEST, repeats: float = 0.0) -> Clip:
    """Return the clip that ``seed`` stands for: the same samples on every call.

    Args:
        seed: Any non-negative integer.
        shortest: Fewest digits; with 0, some clips hold nothing but noise.
        longest: Most digits, at most 6, so that every clip fits the window.
        repeats: Chance that a digit is the one before it again, beyond the one in ten that
            chance gives: how many equal tones there were is the hardest thing to hear.

    Raises:
        ValueError: If the range of lengths is empty or goes beyond six digits.
    """
    if not 0 <= shortest <= longest <= LONGEST:
        raise ValueError(f"need 0 <= shortest <= longest <= {LONGEST}: got {shortest}, {longest}")
    random = np.random.default_rng(seed)
    digits = random.integers(0, 10, size=random.integers(shortest, longest + 1))
    if repeats:
        for place in np.flatnonzero(random.random(digits.size)[1:] < repeats):
            digits[place + 1] = digits[place]
    level = _gain(random.uniform(*LEVEL_DB))

    pieces, spans = [_silence(random)], []
    for digit in digits:
        begin = sum(piece.size for piece in pieces)
        pieces += [level * _tone(int(digit), random), _silence(random)]
        spans.append((begin, begin + pieces[-2].size))
    signal = np.concatenate(pieces)

    noise = _noise(signal.size, random) * level * _gain(-random.uniform(*SNR_DB))
    steps = 2.0 ** (BITS - 1)
    audio = np.clip(np.round((signal + noise) * steps) / steps, -1.0, 1 - 1 / steps)
    return Clip(audio.astype(np.float32), tuple(int(digit) for digit in digits), tuple(spans))


def _tone(digit: int, random: np.random.Generator) -> NDArray[np.float64]:
    """One key press of RMS about 1, with a level, balance and pitch of its own."""
    row, column = KEYS[digit]
    time = np.arange(int(random.uniform(*TONE_SECONDS) * SAMPLE_RATE)) / SAMPLE_RATE
    twist = _gain(random.uniform(*TWIST_DB) / 2)
    sines = [
        amplitude
        * np.sin(
            2 * np.pi * frequency * (1 + random.uniform(-DETUNE, DETUNE)) * time
            + random.uniform(0, 2 * np.pi)
        )
        for amplitude, frequency in ((1 / twist, ROWS[row]), (twist, COLUMNS[column]))
    ]
    ramp = np.minimum(1.0, np.minimum(time, time[::-1]) / RAMP_SECONDS)
    envelope = 0.5 - 0.5 * np.cos(np.pi * ramp)
    return np.asarray(_gain(random.uniform(*TONE_DB)) * envelope * (sines[0] + sines[1]))


def _silence(random: np.random.Generator) -> NDArray[np.float64]:
    return np.zeros(int(random.uniform(*GAP_SECONDS) * SAMPLE_RATE))


def _noise(samples: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Noise of RMS 1: white, coloured by a random one-pole tilt of its spectrum."""
    period = WINDOW_SECONDS * SAMPLE_RATE  # one length for all clips: a fast one for the FFT
    white = np.fft.rfft(random.standard_normal(period))
    frequency = np.fft.rfftfreq(period, 1 / SAMPLE_RATE)
    coloured = np.fft.irfft(white / np.hypot(1.0, frequency / random.uniform(200, 8000)), period)
    return np.asarray(coloured / np.sqrt(np.mean(coloured**2)))[:samples]


def _gain(decibels: float) -> float:
    return float(10.0 ** (decibels / 20))
