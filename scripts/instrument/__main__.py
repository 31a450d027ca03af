"""Draw questions and train tiny models on them: `python scripts/instrument COMMAND`; README.md shows the way.

set        write questions as pictures and a .jsonl
prepare    make a checkpoint with random weights
pool       draw pictures to train on
train      train a checkpoint; the same command goes on with an interrupted run
evaluate   measure a checkpoint's accuracy on every split in transformers
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from luq_gguf.core.errors import LuqError

sys.path[0] = str(Path(__file__).parents[1])  # the folder above the package, where other scripts are, too
COMMANDS = {"set": "sets", "prepare": "prepare", "pool": "pool", "train": "train", "evaluate": "evaluate"}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python scripts/instrument", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS, help="what to do; COMMAND --help shows its options")
    args = parser.parse_args(sys.argv[1:2])
    module = import_module(f"instrument.{COMMANDS[args.command]}")  # torch and transformers only where they are needed
    options = argparse.ArgumentParser(f"{parser.prog} {args.command}", description=module.__doc__)
    module.add_arguments(options)
    try:
        module.run(options.parse_args(sys.argv[2:]))
    except LuqError as error:
        raise SystemExit(f"{error} {error.hint}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
