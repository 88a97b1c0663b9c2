"""What a project needs for CQ: a PostgreSQL database, a channel layer, and two apps."""

import os
import warnings

from example.services import dj_database

SECRET_KEY = "example"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["channels", "cq", "example.survey"]

# `manage.py survey` starts the servers and gives their addresses to every process that it starts.
DATABASES = {"default": dj_database(os.environ.get("DATABASE_URL", "postgresql:///none?host=/nonexistent"))}

# Without a layer everything works, only later: workers then find new tasks by looking at the database now and then.
if "REDIS_URL" in os.environ:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # redis-py 8 gives up listening after 5 s by itself: https://github.com/django/channels_redis/issues/422
            "CONFIG": {"hosts": [{"address": os.environ["REDIS_URL"], "socket_timeout": 30}]},
        },
    }

# A killed worker's tasks are taken over after LEASE seconds. The default, 30, is longer than the example runs.
CQ = {"LEASE": 6}

# Lines are padded because they may overwrite the line of progress.
LOGGING = {
    "version": 1,
    "formatters": {"padded": {"format": "%(message)-79s"}},
    "handlers": {"terminal": {"class": "logging.StreamHandler", "formatter": "padded"}},
    "loggers": {"cq": {"handlers": ["terminal"], "level": "WARNING"}},
}

# The code that is surveyed may be full of these.
warnings.filterwarnings("ignore", category=SyntaxWarning)
