"""Columns that hold Python values: coded arguments and results, and references to any model instance."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.query_utils import DeferredAttribute

from cq import codec
from cq.conf import conf
from cq.exceptions import NotSerializable, TooLarge
from cq.states import HAS_RESULT, Status

if TYPE_CHECKING:  # the fields take no parameters at run time
    JSONField = models.JSONField[Any, Any]
    CharField = models.CharField[Any, Any]
    DurationField = models.DurationField[Any, Any]
else:
    JSONField = models.JSONField
    CharField = models.CharField
    DurationField = models.DurationField


class Encoded(str):
    """JSON text of a value in memory, decoded at first access."""


class EncodedAttribute(DeferredAttribute):
    """Decodes text that was put on an instance without a trip through the database."""

    field: EncodedField

    def decode(self, text: str) -> Any:
        return self.field.from_db_value(text, None, None)

    def __get__(self, instance: Any, cls: Any = None) -> Any:
        value = super().__get__(instance, cls)
        if type(value) is Encoded:
            value = instance.__dict__[self.field.attname] = self.decode(str(value))
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.field.attname] = value


class EncodedField(JSONField):
    """A value that comes back as the type it went in (`cq.codec`), stored as jsonb."""

    descriptor_class = EncodedAttribute

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        if value is None or hasattr(value, "as_sql"):
            return super().get_db_prep_value(value, connection, prepared)
        text = value if isinstance(value, Encoded) else codec.dumps(value, limit=conf().MAX_RESULT_SIZE, what="value")
        return super().get_db_prep_value(json.loads(text), connection, prepared)

    def validate(self, value: Any, model_instance: models.Model | None) -> None:
        try:
            codec.dumps(value, limit=conf().MAX_RESULT_SIZE, what="value")
        except (NotSerializable, TooLarge) as error:
            raise ValidationError(str(error)) from None

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return codec.loads(value, strict=False) if isinstance(value, str) else value


class ArgumentsField(EncodedField):
    """Positional arguments: a tuple in Python, a list in the row."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        decoded = super().from_db_value(value, expression, connection)
        return tuple(decoded) if isinstance(decoded, list) else decoded


class ResultAttribute(EncodedAttribute):
    """A body's result, as long as its task's status says that there is one."""

    def __get__(self, instance: Any, cls: Any = None) -> Any:
        if instance is not None and instance.__dict__.get("status", Status.SUCCESS) not in HAS_RESULT:
            return None
        return super().__get__(instance, cls)


class ResultField(EncodedField):
    """What a body returned. The column keeps it through a revoke, for the body may be reopened as returned."""

    descriptor_class = ResultAttribute


class InstanceAttribute:
    """Reads the instance behind a reference at first access; None when it is gone."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, cls: Any = None) -> Any:
        if instance is None:
            return self
        stored = getattr(instance, f"{self.name}_ref")
        if not isinstance(stored, str):
            return stored
        known = instance.__dict__.get(self.name)
        if known is None or known[0] != stored:
            known = instance.__dict__[self.name] = (stored, read_reference(stored))
        return known[1]

    def __set__(self, instance: Any, value: Any) -> None:
        setattr(instance, f"{self.name}_ref", reference(value) if isinstance(value, models.Model) else value)


class InstanceField(CharField):
    """A reference to an instance of any model, without a constraint and without contenttypes: `"auth.user:7"`.

    `filter(created_by=user)` works; `created_by_ref` is the text, and `created_by` the instance, read when it is asked for.
    """

    def contribute_to_class(self, cls: type[models.Model], name: str, private_only: bool = False) -> None:
        super().contribute_to_class(cls, name, private_only)
        setattr(cls, name, InstanceAttribute(name))

    def get_attname(self) -> str:
        return f"{self.name}_ref"

    def get_attname_column(self) -> tuple[str, str]:
        return self.get_attname(), self.db_column or self.name

    def get_prep_value(self, value: Any) -> Any:
        return super().get_prep_value(reference(value) if isinstance(value, models.Model) else value)


def reference(instance: models.Model) -> str:
    """Name a saved instance in one string."""
    return f"{instance._meta.label_lower}:{instance._meta.pk.value_to_string(instance)}"


def read_reference(stored: str) -> models.Model | None:
    """Read the instance that `reference` named, or None when it or its model is gone."""
    label, _, key = stored.partition(":")
    try:
        model = apps.get_model(label)
        found: models.Model | None = model._base_manager.filter(pk=model._meta.pk.to_python(key)).first()
    except (LookupError, ValueError, ValidationError):
        return None
    return found


class IntervalField(DurationField):
    """A length of time; numbers are seconds."""

    def to_python(self, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return timedelta(seconds=value)
        return super().to_python(value)
