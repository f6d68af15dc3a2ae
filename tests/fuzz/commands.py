"""The commands that read what is spoilt, by the name that tables give them."""

from __future__ import annotations

Words = dict[str, str]
"""Name of a command to its arguments."""

ABSORB = "absorb-decompose in -o out"
READ: Words = {
    "load": "",
    "inspect": "inspect in --by-weights --json",
    "inspect --structure": "inspect in --structure --json",
    "export --list": "export in --list --json",
    "verify": "verify base in --weights-only --max-error 1e-4 --json",
}
DENSE: Words = READ | {
    "absorb-decompose --lossless": f"{ABSORB} --lossless",
    "absorb-decompose --remove": f"{ABSORB} --remove 25% --by-weights",
    "absorb-decompose --dry-run": "absorb-decompose in --remove 25% --by-weights --dry-run --json",
    "split": "split in -o out --rank 4",
    "split --method pissa": "split in -o out --rank 4 --method pissa",
    "reparam hra": "reparam in -o out --method hra --reflections 2",
    "reparam goft": "reparam in -o out --method goft",
    "merge": "merge in -o out",
    "refresh": "refresh in",
}
TREATED: Words = READ | {
    "verify": "verify base in --weights-only --max-error 1e9 --json",
    "split": "split in -o out --rank 2 --targets up",
    "reparam hra": "reparam in -o out --method hra --reflections 2 --targets up",
    "merge": "merge in -o out",
    "merge --steps": "merge in -o out --steps 1",
    "refresh": "refresh in",
    "export hf": "export in -o out --to hf --json",
    "absorb-decompose --remove": f"{ABSORB} --remove 25% --by-weights",
}
ADAPTED: Words = {
    "load": "",
    "merge": "merge adapter -o out",
    "merge --steps": "merge adapter -o out --steps 1",
    "verify": "verify base adapter --weights-only --max-error 1e9 --json",
    "export --list": "export adapter --list --json",
    "export hf": "export adapter -o out --to hf --json",
    "refresh": "refresh adapter",
    "inspect": "inspect adapter --by-weights --json",
}
TEXT_READ: Words = {
    "evaluate": "evaluate base in --data text.txt --resamples 20 --json",
    "verify on input": "verify base in --data text.txt --max-error 1e-4",
}
SPEECH_READ: Words = {"evaluate": "evaluate base in --data clips --resamples 20 --json"}
CALIBRATED: Words = {"absorb-decompose --calibrate": f"{ABSORB} --calibrate text.txt --remove 25%"}
COMPRESSED: Words = {
    "compress": "compress in -o out --calibrate text.txt --remove 25%",
    "compress --drop-layers": "compress in -o out --calibrate text.txt --drop-layers 1",
    "compress --dry-run": "compress in --remove 25% --calibrate text.txt --dry-run --json",
}
GGUF: Words = {"export gguf": "export in -o out --to gguf --json"}
WHISPERS: Words = {
    f"export {to}": f"export in -o out --to {to} --json" for to in ("ct2", "openai-whisper")
}
PEFT: Words = {"export peft": "export in -o out --to peft --original base --json"}
TUNED: Words = {
    "tune": "tune in -o out --data text.txt --steps 1 --batch 2 --length 16 --device cpu"
}
STATISTICS: Words = {
    "absorb-decompose --statistics": f"{ABSORB} --statistics stats --remove 25%",
    "inspect --statistics": "inspect in --statistics stats --json",
}
