"""The form of a repeating task: names to pick from, arguments as JSON. What is wrong stands beside its field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

from django import forms
from django.core.exceptions import ValidationError
from django.forms.renderers import BaseRenderer
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from cq import codec, registry
from cq.conf import conf
from cq.exceptions import NotSerializable
from cq.models import RepeatingTask

if TYPE_CHECKING:  # the form takes no parameters at run time
    ModelForm = forms.ModelForm[RepeatingTask]
else:
    ModelForm = forms.ModelForm


class PickerInput(forms.TextInput):
    """A text input that offers values; others can be typed."""

    def __init__(self, offers: Callable[[], Iterable[str]]) -> None:
        super().__init__(attrs={"class": "vTextField", "autocomplete": "off"})
        self.offers = offers

    def render(
        self, name: str, value: Any, attrs: dict[str, Any] | None = None, renderer: BaseRenderer | None = None
    ) -> SafeString:
        """Write the input and its list; everything in it is escaped."""
        offered = f"{name}-offers"
        field = super().render(name, value, {**(attrs or {}), "list": offered}, renderer)
        options = format_html_join("", '<option value="{}"></option>', ((one,) for one in sorted(self.offers())))
        return format_html('{}<datalist id="{}">{}</datalist>', field, offered, options)


class CodedField(forms.CharField):
    """A stored value as the JSON that the row keeps, so that what JSON lacks survives an edit."""

    widget = forms.Textarea(attrs={"rows": 2, "cols": 80, "class": "vLargeTextField", "spellcheck": "false"})

    def __init__(self, kind: type, **kwargs: Any) -> None:
        super().__init__(required=False, **kwargs)
        self.kind = kind

    def prepare_value(self, value: Any) -> Any:
        """Show a value as text; what was typed as it was typed."""
        if isinstance(value, str):
            return value
        return codec.dumps(self.kind(value or ()), limit=conf().MAX_RESULT_SIZE, what="value")

    def to_python(self, value: Any) -> Any:
        """Read what was typed; "" is an empty one."""
        text = super().to_python(value)
        try:
            found = codec.loads(text) if text else self.kind()
        except NotSerializable as error:
            raise ValidationError(str(error)) from None
        if not isinstance(found, self.kind):
            example = '["a@example.org", 3]' if self.kind is list else '{"retry": true}'
            raise ValidationError(f"Expected a JSON {'list' if self.kind is list else 'object'}, such as {example}.")
        return tuple(found) if isinstance(found, list) else found

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compare texts: values read from the row may be any."""
        return bool(super().has_changed(self.prepare_value(initial), data or self.prepare_value(None)))


class RepeatingTaskForm(ModelForm):
    """A repeating task, as people write it."""

    args = CodedField(list, help_text='Positional arguments as a JSON list: ["a@example.org", 3]')
    kwargs = CodedField(dict, help_text='Keyword arguments as a JSON object: {"force": true}')

    class Meta:
        model = RepeatingTask
        fields = (
            *("name", "task", "args", "kwargs", "crontab", "every", "timezone", "starts_at", "ends_at", "enabled"),
            *("overlap", "catch_up", "catch_up_window", "jitter", "max_failures", "queue", "priority", "result_ttl"),
        )
        widgets = {
            "task": PickerInput(registry.names),
            "timezone": PickerInput(available_timezones),
            "crontab": forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off", "spellcheck": "false"}),
        }
