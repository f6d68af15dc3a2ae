"""How ``whisper-micro`` was made: its audio, its vocabulary and its training.

The trained model itself lies in ``surgery/data/whisper_micro`` and needs none of this to
load: it is a stock Whisper in transformers' layout.
"""
