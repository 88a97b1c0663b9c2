"""The settings of the workers that tests start as processes of their own; the environment says what a test wants otherwise."""

import json
import os

from tests.settings import *  # noqa: F403
from tests.settings import CHANNEL_LAYERS as _LAYERS
from tests.settings import DATABASES as _DATABASES

CQ = {
    "LEASE": 3,
    "POLL_INTERVAL": 0.3,
    "TASK_MODULES": ["tests.fault_tasks"],
    **json.loads(os.environ.get("TEST_CQ", "{}")),
}

# What CQ needs, and no more: no admin, no sessions, no pages.
ROOT_URLCONF = None
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "channels", "cq", "tests"]

DATABASES = {"default": {**_DATABASES["default"]}}
DATABASES["default"]["OPTIONS"] = {
    **DATABASES["default"]["OPTIONS"],
    **json.loads(os.environ.get("TEST_OPTIONS", "{}")),
}

CHANNEL_LAYERS = {
    "redis": _LAYERS,
    "none": {},
    "memory": {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    "refused": {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": ["redis://127.0.0.1:1/0"]},
        }
    },
}[os.environ.get("TEST_LAYER", "redis")]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"cq": {"handlers": ["console"], "level": os.environ.get("TEST_LOG_LEVEL", "INFO")}},
}
