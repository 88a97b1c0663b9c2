"""The admin's pages, where `django.contrib.admin` is installed: repeating tasks to edit, tasks to read, retry and revoke.

Nothing else imports this; Django does, as it does with every app's `admin`.
"""

from cq.admin.repeating import RepeatingTaskAdmin
from cq.admin.tasks import TaskAdmin

__all__ = ["RepeatingTaskAdmin", "TaskAdmin"]
