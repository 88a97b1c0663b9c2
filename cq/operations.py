"""`RepeatTask`: a migration operation that stores a repeating task, and takes it back. Imports no code of tasks."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from cq.models.repeating import plan, upsert


class RepeatTask(Operation):
    """Store a repeating task, or change the one of this name; the way back restores what there was.

    The migration depends on `("cq", "0001_initial")`. The task function is named, never imported: workers that know it fire it.
    What is not given is as `RepeatingTask` has it by default.
    """

    reversible = True
    reduces_to_sql = False

    # All by position or keyword: a squashed migration is written from these names.
    def __init__(
        self,
        name: str,
        task: str,
        crontab: str | None = None,
        every: timedelta | float | None = None,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        timezone: str | None = None,
        enabled: bool = True,
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        result_ttl: timedelta | int | None = None,
        overlap: str | None = None,
        catch_up: str | None = None,
        catch_up_window: timedelta | float | None = None,
        jitter: timedelta | float | None = None,
        max_failures: int | None = None,
        coalesce: bool | None = None,
    ) -> None:
        self.name = name
        given = {
            "task": task,
            "crontab": crontab or "",
            "every": every,
            "args": args,
            "kwargs": kwargs or {},
            "timezone": timezone,
            "enabled": enabled,
            "starts_at": starts_at,
            "ends_at": ends_at,
            "queue": queue,
            "priority": priority,
            "result_ttl": result_ttl,
            "overlap": overlap,
            "catch_up": catch_up,
            "catch_up_window": catch_up_window,
            "jitter": jitter,
            "max_failures": max_failures,
            "coalesce": coalesce,
        }
        self.values = {field: value for field, value in given.items() if value is not None}

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Change no model."""

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """Store it."""
        model = self._model(to_state)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            upsert(model, self.name, self.values, using=schema_editor.connection.alias, keep=True)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """Restore what it replaced, or delete it where there was nothing."""
        model = self._model(from_state)
        alias = schema_editor.connection.alias
        if not self.allow_migrate_model(alias, model):
            return
        rows = model._base_manager.using(alias).filter(name=self.name)
        row = rows.first()
        if row is None:
            return
        if not row.replaced:
            rows.delete()
            return
        before = model(name=self.name, created_at=row.created_at, **row.replaced[-1])
        plan(before, None)
        columns = {*row.replaced[-1], "next_run", "planned", "buffered", "enabled_at"}
        rows.update(**{column: getattr(before, column) for column in columns}, replaced=row.replaced[:-1])

    def _model(self, state: ProjectState) -> Any:
        try:
            return state.apps.get_model("cq", "RepeatingTask")
        except LookupError:
            raise ValueError(
                f"RepeatTask({self.name!r}) needs CQ's tables: add ('cq', '0001_initial') to the migration's dependencies."
            ) from None

    def describe(self) -> str:
        """Say it in one line."""
        return f"Repeat {self.values['task']} as {self.name!r}"

    @property
    def migration_name_fragment(self) -> str:
        """Name a migration after it."""
        return f"repeat_{''.join(letter if letter.isalnum() else '_' for letter in self.name).lower()}"
