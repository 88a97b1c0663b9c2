from datetime import timedelta
import pytest
from cq import schedules
from cq.models import *
from tests.schedules.conftest import ticks

pytestmark = pytest.mark.django_db


def test_it(due):
    r = due(timedelta(minutes=5), overlap="allow", catch_up="all")
    print(schedules.next_tick())
    f = schedules.fire()
    print(f)
    r.refresh_from_db()
    print(ticks(r), r.next_run, r.skipped, r.last_run)
    print(r.upcoming(2)[0].local, r.run_now(), r.runs)
    r.pause()
    print(r.enabled, r.next_run)
    r.resume()
    print(r.next_run)
    RepeatingTask.objects.filter(pk=r.pk).update(every=None, crontab="* * * * *", max_failures=2)
    r.refresh_from_db()
    print(r.planned, schedules.next_tick())
    print(schedules.fire())
    r.refresh_from_db()
    print(r.planned, r.next_run)
    r.crontab = "0 0 1 1 *"
    r.save()
    print(r.next_run)
