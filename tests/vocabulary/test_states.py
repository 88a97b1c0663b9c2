"""The table of statuses and transitions: documented, closed, and the only place from which a status comes."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import cq
from cq import sql, states
from cq.states import TRANSITIONS, Status

PACKAGE = Path(inspect.getfile(cq)).parent
README = PACKAGE.parent / "README.md"
LEFT_OUT_OF_THE_PICTURE = {"revoke", "reopen", "reopen_parent", "reopen_successor"}
SOURCE = inspect.getsource(states).splitlines()


def comment_above(line: int) -> str:
    """Return the comment right above a line of `states.py` (counted from 0)."""
    found: list[str] = []
    while SOURCE[line - 1].strip().startswith("#"):
        line -= 1
        found.insert(0, SOURCE[line].strip(" #"))
    return " ".join(found)


def line_with(start: str) -> int:
    (line,) = [number for number, text in enumerate(SOURCE) if text.strip().startswith(start)]
    return line


@pytest.mark.parametrize("status", Status)
def test_every_status_is_documented_where_it_is_defined(status: Status) -> None:
    assert len(comment_above(line_with(f"{status.name} = "))) > 10


@pytest.mark.parametrize("transition", TRANSITIONS, ids=lambda transition: transition.name)
def test_every_transition_is_documented_where_it_is_defined(transition: states.Transition) -> None:
    assert len(comment_above(line_with(f"{transition.name.upper()} = "))) > 10


def test_the_values_are_the_words() -> None:
    assert [status.value for status in Status] == [status.name for status in Status]


def test_every_status_is_either_unfinished_or_terminal() -> None:
    assert set(Status) == states.TERMINAL | states.UNFINISHED
    assert not states.TERMINAL & states.UNFINISHED
    assert states.UNSUCCESSFUL | {Status.SUCCESS} == states.TERMINAL
    assert states.DELAYED <= states.UNFINISHED


def test_every_transition_is_in_the_table_once() -> None:
    defined = [value for value in vars(states).values() if isinstance(value, states.Transition)]

    assert sorted(t.name for t in defined) == sorted(t.name for t in TRANSITIONS)
    assert len({t.name for t in TRANSITIONS}) == len(TRANSITIONS)
    assert all(getattr(states, t.name.upper()) is t for t in TRANSITIONS)


def test_only_reopening_leaves_a_terminal_status() -> None:
    leaving = {t.name for t in TRANSITIONS if t.sources & states.TERMINAL}

    assert leaving == {"reopen", "reopen_parent", "reopen_successor"}


@pytest.mark.parametrize("status", sorted(states.UNFINISHED))
def test_every_unfinished_status_can_be_reached_and_can_come_to_an_end_without_a_revoke(status: Status) -> None:
    def beyond(reached: set[Status]) -> set[Status]:
        ways = [t for t in TRANSITIONS if t.name not in LEFT_OUT_OF_THE_PICTURE and t.sources & reached]
        return reached.union(*(t.targets for t in ways))

    reached = {status}
    while beyond(reached) != reached:
        reached = beyond(reached)

    assert any(status in t.targets for t in TRANSITIONS)
    assert reached & states.TERMINAL


def test_a_guard_lists_the_sources_as_literals() -> None:
    assert states.PROMOTE.guard == "'SCHEDULED', 'SUSPENDED', 'RETRY'"
    assert states.CLAIM.guard == "'QUEUED'"


def test_a_transition_with_several_targets_has_no_single_one() -> None:
    assert states.CLAIM.target == Status.RUNNING
    with pytest.raises(ValueError, match="too many values"):
        _ = states.RELEASE.target


def writes_of_status(source: str) -> list[int]:
    """Find the lines of a module that write a task's status."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Assign(targets=targets):
                found = any(isinstance(target, ast.Attribute) and target.attr == "status" for target in targets)
            case (
                ast.AugAssign(target=ast.Attribute(attr="status")) | ast.AnnAssign(target=ast.Attribute(attr="status"))
            ):
                found = True
            case ast.Call(func=ast.Attribute(value=rows, attr="update" | "aupdate" | "create"), keywords=keywords):
                is_query = re.search(r"objects|filter|rows|tasks|query", ast.unparse(rows)) is not None
                found = is_query and any(keyword.arg == "status" for keyword in keywords)
            case ast.Call(func=ast.Name(id="setattr"), args=[_, ast.Constant(value="status"), *_]):
                found = True
            case ast.Constant(value=str(text)):
                found = re.search(r"\b(UPDATE|INSERT\s+INTO)\s+cq_task\b|\bSET\s+status\b", text, re.I) is not None
            case _:
                found = False
        if found:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "line",
    ["task.status = x", "rows.update(status=1)", "setattr(task, 'status', 1)", "'UPDATE cq_task SET x = 1'"],
)
def test_a_write_of_status_would_be_found(line: str) -> None:
    assert writes_of_status(line) == [1]


# TaskFailed tells the status of a task; it has none itself.
NOT_A_TASK = {"exceptions.py"}


def test_no_module_but_sql_writes_a_status() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts]

    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in modules
        if path.parent.name != "sql" and path.name not in NOT_A_TASK
        for line in writes_of_status(path.read_text())
    }

    assert len(modules) > 30
    assert found == set()


def test_no_module_saves_a_task() -> None:
    found = [path.name for path in PACKAGE.rglob("*.py") if re.search(r"\btask\.save\(", path.read_text())]

    assert found == []


STATEMENTS = {name: text for name, text in vars(sql).items() if name.isupper() and isinstance(text, str)}


@pytest.mark.parametrize("name", [name for name, text in STATEMENTS.items() if "SET status" in text])
def test_every_statement_that_moves_a_task_says_from_where(name: str) -> None:
    assert re.search(r"\bstatus (IN \(|= ')", STATEMENTS[name])


def test_every_status_in_a_statement_is_a_literal() -> None:
    assert [name for name, text in STATEMENTS.items() if re.search(r"status\s*(=|IN|=\s*ANY)\s*\(?%s", text)] == []


def drawn() -> set[tuple[str, str, str]]:
    """Read the arrows of README's picture: from, to, transition."""
    (picture,) = re.findall(r"```mermaid\s+stateDiagram-v2\n(.*?)```", README.read_text(), re.S)
    arrows = set()
    for line in picture.splitlines():
        if "-->" not in line:
            continue
        arrow = re.fullmatch(r"\s*(\[\*\]|\w+)\s*-->\s*(\[\*\]|\w+)\s*(?::\s*(\w+(?:\s*[,/]\s*\w+)*)\s*)?", line)
        assert arrow, f"this arrow cannot be read: {line}"
        source, target, names = arrow.groups()
        if target == "[*]" and not names:
            assert source in states.TERMINAL, line
            continue
        assert names, f"this arrow has no transition: {line}"
        arrows |= {(source, target, name) for name in re.split(r"\s*[,/]\s*", names)}
    return arrows


def test_the_picture_in_the_readme_is_the_table() -> None:
    table = {
        (source, target.value, t.name)
        for t in TRANSITIONS
        if t.name not in LEFT_OUT_OF_THE_PICTURE
        for source in ([source.value for source in t.sources] or ["[*]"])
        for target in t.targets
    }

    assert drawn() == table
