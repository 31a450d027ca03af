"""List every sentence that a user can meet, once, as FILE:LINE and the sentence, so that they can be read through.

    python scripts/list_sentences.py [PATH ...]      # files or folders; by default luq_gguf, vendor and scripts

From Python: every string of two words or more that is not a docstring (messages, hints, help texts, notes, checks,
table heads, the report page), every string given to an error, `info`, `echo` or `Check` whatever its length, and the
docstrings of commands, which click prints as help. Holes of f-strings are shown as {expression}, and strings that are
added to each other as one. From C++ and shell: string literals of two words or more. From the card template: its lines.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOLD = re.compile(r"(Error|Refusal|\.say|^say|\.echo|^print|Check|BadParameter)$")
WORDS = re.compile(r"[A-Za-z}'\"),:;][ \n]+[A-Za-z{('\"]")
LITERALS = re.compile(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*')
JINJA = re.compile(r"{%.*?%}|{#.*?#}", re.DOTALL)


def text_of(node: ast.AST) -> str | None:
    """Return the text of a string expression, with holes as {expression}; None where it is not one."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) or "" for part in parts)
        case ast.FormattedValue(value=value):
            return f"{{{ast.unparse(value)}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            texts = text_of(left), text_of(right)
            if any(texts):
                return "".join(
                    f"{{{ast.unparse(side)}}}" if text is None else text
                    for side, text in zip((left, right), texts, strict=True)
                )
    return None


def holes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the expressions inside a string expression that are not text themselves."""
    match node:
        case ast.JoinedStr(values=parts):
            yield from (part.value for part in parts if isinstance(part, ast.FormattedValue))
        case ast.BinOp(left=left, right=right):
            for side in (left, right):
                yield from [side] if text_of(side) is None else holes(side)


def sentences_of_python(node: ast.AST, told: bool = False) -> Iterator[tuple[int, str]]:
    """Yield line and sentence of all strings below a node; `told` if the node is an argument of what speaks to the
    user."""
    text = text_of(node)
    if text is not None:
        if told or WORDS.search(text):
            yield getattr(node, "lineno", 0), text
        inside = list(holes(node))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    else:
        inside = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.FunctionDef) and any("command" in ast.unparse(d) for d in node.decorator_list):
        yield node.lineno, ast.get_docstring(node) or ""
    speaks = isinstance(node, ast.Call) and bool(TOLD.search(ast.unparse(node.func)))
    for child in inside:
        yield from sentences_of_python(child, speaks or (told and isinstance(child, ast.IfExp | ast.keyword)))


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and sentence of everything in a file that a user can meet."""
    content = path.read_text()
    if path.suffix == ".py":
        yield from sentences_of_python(ast.parse(content))
    elif path.suffix == ".jinja":
        yield from enumerate(JINJA.sub("", content).splitlines(), 1)
    elif path.suffix in (".cpp", ".h") or content.startswith("#!"):
        for found in LITERALS.finditer(content):
            if WORDS.search(found[0]):
                text = "".join(part[1:-1] for part in re.findall(r'"(?:[^"\\\n]|\\.)*"', found[0]))
                yield content.count("\n", 0, found.start()) + 1, text


def main(paths: list[Path]) -> None:
    seen: set[str] = set()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and (file.suffix in (".py", ".jinja", ".cpp", ".h") or not file.suffix):
                for line, text in sentences(file):
                    sentence = " ".join(text.split())
                    if sentence and sentence not in seen:
                        seen.add(sentence)
                        print(f"{file.resolve().relative_to(ROOT)}:{line}: {sentence}")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]] or [ROOT / name for name in ("luq_gguf", "vendor", "scripts")])
