"""The rows: tasks and their attempts, workers and their processes, settle requests, statistics."""

from cq.models.attempt import Attempt, PastAttempt
from cq.models.settle import SettleRequest
from cq.models.statistic import Statistic
from cq.models.task import Task
from cq.models.worker import Process, Worker

__all__ = ["Attempt", "PastAttempt", "Process", "SettleRequest", "Statistic", "Task", "Worker"]
