"""Publish a folder's files as `luq-gguf upload` does, once for every line on stdin; tells how it went in JSON.

python publish_files.py FOLDER USER/NAME
"""

import hashlib
import json
import sys
from pathlib import Path

from luq_gguf.core.errors import LuqError
from luq_gguf.publishing import access, publish


def main() -> None:
    folder, target = Path(sys.argv[1]), access.Target(sys.argv[2], create=True)
    files = [
        publish.File(path, path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    ]
    for _ in sys.stdin:
        said: list[str] = []
        try:
            done = publish.publish(target, access.check(target), files, "files", said.append)
            told = {"sent": [file.name for file in done.sent]}
        except LuqError as error:
            told = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
        print(json.dumps(told | {"said": said}), flush=True)


if __name__ == "__main__":
    main()
