"""The Django project that the tests run in; `tests.plugin` starts its servers before this is read."""

import os

from example.services import dj_database

SECRET_KEY = "tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "channels", "cq", "tests"]

# The checks read the settings too, without servers: they get addresses where nobody answers.
DATABASES = {"default": dj_database(os.environ.get("DATABASE_URL", "postgresql:///none?host=/nonexistent"))}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [os.environ.get("REDIS_URL", "unix:///nonexistent")]},
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"null": {"class": "logging.NullHandler"}},
    "root": {"handlers": ["null"], "level": "WARNING"},
}
