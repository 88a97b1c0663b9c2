"""The Django project of every measurement; which system is measured says which apps it has."""

import os

from example.services import dj_database

_APPS = {
    "cq": ["django.contrib.auth", "channels", "cq"],
    "celery-db": ["django_celery_results"],
    "django-tasks-db": ["django_tasks_db"],
}

SECRET_KEY = "benchmarks"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "tests.benchmarks", *_APPS.get(os.environ.get("BENCH_SYSTEM", ""), [])]
DATABASES = {"default": dj_database(os.environ["DATABASE_URL"])}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
    },
}
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
CQ = {"TASK_MODULES": ["tests.benchmarks.systems.cq"]}
