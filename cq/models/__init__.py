"""The rows: tasks and their attempts, repeating tasks, workers and their processes, settle requests, queues, keys, statistics."""

from cq.models.attempt import Attempt, PastAttempt
from cq.models.key import Key, KeyRequest, Lingering
from cq.models.queue import Queue
from cq.models.repeating import RepeatingTask, schedule_task
from cq.models.settle import SettleRequest
from cq.models.statistic import Statistic
from cq.models.task import Task
from cq.models.worker import Process, Worker

__all__ = [
    "Attempt",
    "Key",
    "KeyRequest",
    "Lingering",
    "PastAttempt",
    "Process",
    "Queue",
    "RepeatingTask",
    "SettleRequest",
    "Statistic",
    "Task",
    "Worker",
    "schedule_task",
]
