"""``python -m surgery_cli``: what torchrun and accelerate launch can start."""

from surgery_cli.main import main

main()
