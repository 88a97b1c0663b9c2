"""Start-up: import the projects' task modules and register the checks. Touches neither the database nor the channel layer."""

from importlib import import_module
from importlib.util import find_spec

from django.apps import AppConfig, apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import post_migrate

MODULES = ("tasks", "handlers")


class CQConfig(AppConfig):
    """The app `cq`."""

    name = "cq"
    verbose_name = "CQ"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from cq.checks import (  # needs the app registry
            check_channel_layer,
            check_database,
            check_declared_crontabs,
            check_settings,
            check_stored_crontabs,
        )

        for check in (check_settings, check_database, check_channel_layer, check_declared_crontabs):
            checks.register(check, "cq")
        checks.register(check_stored_crontabs, checks.Tags.database)
        for app in apps.get_app_configs():
            for module in MODULES:
                import_if_there(f"{app.name}.{module}")
        post_migrate.connect(sync_repeating, sender=self)


def sync_repeating(using: str, **_: object) -> None:
    """Make the rows of `@repeat` what the code says, the modules included that else only workers import."""
    from cq.conf import conf
    from cq.declared import sync  # needs the app registry

    for module in conf().TASK_MODULES:
        import_tasks(module)
    sync(using)


def import_if_there(module: str) -> None:
    """Import a module of tasks, if there is one; an error inside it is an error of the start-up that names it."""
    if find_spec(module) is not None:
        import_tasks(module)


def import_tasks(module: str) -> None:
    """Import a module of tasks; `ImproperlyConfigured` names the one that raised."""
    try:
        import_module(module)
    except Exception as error:
        raise ImproperlyConfigured(
            f"The task module {module} could not be imported: {type(error).__name__}: {error}"
        ) from error
