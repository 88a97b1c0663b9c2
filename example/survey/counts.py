"""Count what is in a module. Workers and the serial count call the same `count`, so that their totals can be compared."""

import ast
import threading
from dataclasses import dataclass
from pathlib import Path

BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST_FILE = 2 * 1024 * 1024  # bytes; a longer one is data
# Python 3.11 keeps the depth of the tree that it builds in one place for all threads: two at once may end in SystemError.
ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True)
class Counts:
    """What is in some modules. The sum of two keeps the longer of their longest functions."""

    modules: int = 0
    unparsed: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    branches: int = 0
    longest: int = 0
    longest_name: str = ""

    def __add__(self, other: "Counts") -> "Counts":
        longest, longest_name = max((self.longest, self.longest_name), (other.longest, other.longest_name))
        return Counts(
            modules=self.modules + other.modules,
            unparsed=self.unparsed + other.unparsed,
            lines=self.lines + other.lines,
            functions=self.functions + other.functions,
            classes=self.classes + other.classes,
            branches=self.branches + other.branches,
            longest=longest,
            longest_name=longest_name,
        )


def count(path: Path, *, must_parse: bool = False) -> Counts:
    """Count one module; if it does not parse, as test data may not, only its lines, unless it must: then SyntaxError."""
    lines = 0
    try:
        source = path.read_bytes()
        lines = len(source.splitlines())
        nodes = _parse(source, path)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        if must_parse:
            raise
        return Counts(modules=1, unparsed=1, lines=lines)
    return Counts(modules=1, lines=lines) + _count(nodes, path.stem)


def _parse(source: bytes, path: Path) -> list[ast.AST]:
    if len(source) > LONGEST_FILE:
        raise ValueError(f"{path} has {len(source)} bytes, more than {LONGEST_FILE}.")
    with ONE_AT_A_TIME:
        return list(ast.walk(ast.parse(source, str(path))))


def _count(nodes: list[ast.AST], module: str) -> Counts:
    functions = [node for node in nodes if isinstance(node, FUNCTIONS)]
    lengths = [((node.end_lineno or node.lineno) - node.lineno + 1, f"{module}.{node.name}") for node in functions]
    longest, longest_name = max(lengths, default=(0, ""))
    return Counts(
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        branches=sum(isinstance(node, BRANCHES) for node in nodes),
        longest=longest,
        longest_name=longest_name,
    )
