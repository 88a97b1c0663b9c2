"""Model instances, which go by reference: what stands for one, and how it is read again.

Decoding leaves references as they are, and so needs no database; `resolve` is what reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Model

from cq.exceptions import ModelGone, NotSerializable


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model instance that went by reference: its model's label, its key, and the database it is read from."""

    label: str
    pk: Any
    using: str = "default"

    def get(self) -> Any:
        """Read the instance; ModelGone if its row, or its model, no longer exists."""
        return resolve(self)

    def __repr__(self) -> str:
        database = "" if self.using == "default" else f" in {self.using!r}"
        return f"<ModelRef {self.label} {self.pk!r}{database}>"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A stored value that this process cannot make, kept as it is: from `loads(strict=False)`; `resolve` refuses it."""

    stored: dict[str, Any]
    reason: str


def resolve(value: Any) -> Any:
    """Copy a decoded value, every `ModelRef` in it replaced by its instance; one query per model and database.

    ModelGone if a row no longer exists. References to the same row give the same instance.
    """
    references: set[ModelRef] = set()
    _collect(value, references)
    return _rebuild(value, _read(references))


def _collect(value: Any, references: set[ModelRef]) -> None:
    if isinstance(value, ModelRef):
        references.add(value)
    elif isinstance(value, Unreadable):
        raise NotSerializable(value.reason)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _collect(item, references)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, references)


def _read(references: set[ModelRef]) -> dict[ModelRef, Model]:
    groups: dict[tuple[str, str], list[ModelRef]] = {}
    for reference in references:
        groups.setdefault((reference.label, reference.using), []).append(reference)
    instances: dict[ModelRef, Model] = {}
    for (label, using), group in groups.items():
        instances.update(_read_group(label, using, group))
    return instances


def _read_group(label: str, using: str, group: list[ModelRef]) -> dict[ModelRef, Model]:
    try:
        model = apps.get_model(label)
    except (LookupError, ValueError):
        raise ModelGone(f"{group[0]!r}: there is no model {label!r} any more. Was it removed or renamed?") from None
    keys = {reference: _key(model, reference) for reference in group}
    rows = model._base_manager.using(using).in_bulk([*keys.values()])
    for reference, key in keys.items():
        if key not in rows:
            raise ModelGone(f"{label} with key {reference.pk!r} no longer exists in database {using!r}.")
    return {reference: rows[key] for reference, key in keys.items()}


def _key(model: type[Model], reference: ModelRef) -> Any:
    try:
        return model._meta.pk.to_python(reference.pk)
    except (ValidationError, ValueError, TypeError) as error:
        raise ModelGone(f"{reference!r}: {reference.pk!r} is no key of {reference.label} any more.") from error


def _rebuild(value: Any, instances: dict[ModelRef, Model]) -> Any:
    if isinstance(value, ModelRef):
        return instances[value]
    if isinstance(value, dict):
        return {key: _rebuild(item, instances) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)([_rebuild(item, instances) for item in value])
    return value
