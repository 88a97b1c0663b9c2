"""The rows: tasks with their attempts, steps and events, repeating tasks, workers, settle requests, queues, keys, statistics."""

from cq.models.attempt import Attempt, PastAttempt
from cq.models.errorback import Errorback
from cq.models.event import Event
from cq.models.key import Key, KeyRequest, Lingering
from cq.models.queue import Queue
from cq.models.repeating import RepeatingTask, schedule_task
from cq.models.settle import SettleRequest
from cq.models.statistic import Statistic
from cq.models.step import Step
from cq.models.task import Task
from cq.models.worker import Process, Worker

__all__ = [
    "Attempt",
    "Errorback",
    "Event",
    "Key",
    "KeyRequest",
    "Lingering",
    "PastAttempt",
    "Process",
    "Queue",
    "RepeatingTask",
    "SettleRequest",
    "Statistic",
    "Step",
    "Task",
    "Worker",
    "schedule_task",
]
