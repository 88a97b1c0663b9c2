"""The rows of tasks, attempts, steps, events, workers, settle requests, queues and keys, and the view over all attempts."""

import uuid

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import cq.fields
import cq.ids
import cq.models.conditions
import cq.models.repeating


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Attempt",
            fields=[
                ("id", models.CharField(max_length=50, primary_key=True, serialize=False)),
                ("number", models.IntegerField()),
                ("started_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                ("worker", models.CharField(max_length=300)),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("success", "Success"),
                            ("error", "Error"),
                            ("timeout", "Timeout"),
                            ("crashed", "Crashed"),
                            ("interrupted", "Interrupted"),
                            ("revoked", "Revoked"),
                        ],
                        max_length=12,
                        null=True,
                    ),
                ),
                ("error", models.TextField(null=True)),
                ("exception", models.CharField(max_length=200, null=True)),
                ("traceback", models.TextField(null=True)),
            ],
            options={
                "db_table": "cq_attempt",
                "ordering": ["task", "number"],
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="Process",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("pid", models.IntegerField()),
                ("started_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("ended_at", models.DateTimeField(null=True)),
                ("started", models.JSONField(null=True)),
                ("overdue", models.JSONField(null=True)),
                ("was_stopped", models.BooleanField(db_default=False, default=False)),
            ],
            options={
                "verbose_name_plural": "processes",
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("host", models.CharField(max_length=255)),
                ("pid", models.IntegerField()),
                ("version", models.CharField(max_length=32)),
                ("queues", models.JSONField(null=True)),
                ("names", models.JSONField(default=list)),
                ("slots", models.IntegerField(db_default=0, default=0)),
                ("coroutines", models.IntegerField(db_default=0, default=0)),
                ("started_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("lease_until", models.DateTimeField(db_index=True)),
            ],
        ),
        migrations.CreateModel(
            name="SettleRequest",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("task_id", models.UUIDField()),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "indexes": [models.Index(fields=["task_id"], name="cq_settle_task")],
            },
        ),
        migrations.CreateModel(
            name="Task",
            fields=[
                ("id", models.UUIDField(default=cq.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=200)),
                ("queue", models.CharField(db_default="default", default="default", max_length=64)),
                ("priority", models.SmallIntegerField(db_default=0, default=0)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("PENDING", "Pending"),
                            ("SCHEDULED", "Scheduled"),
                            ("QUEUED", "Queued"),
                            ("RUNNING", "Running"),
                            ("SUSPENDED", "Suspended"),
                            ("WAITING", "Waiting"),
                            ("RETRY", "Retry"),
                            ("SUCCESS", "Success"),
                            ("FAILURE", "Failure"),
                            ("INCOMPLETE", "Incomplete"),
                            ("REVOKED", "Revoked"),
                            ("SKIPPED", "Skipped"),
                            ("LOST", "Lost"),
                            ("EXPIRED", "Expired"),
                        ],
                        max_length=12,
                    ),
                ),
                ("args", cq.fields.ArgumentsField(default=tuple)),
                ("kwargs", cq.fields.EncodedField(default=dict)),
                ("options", models.JSONField(null=True)),
                ("created_by", cq.fields.InstanceField(max_length=200, null=True)),
                ("subject", cq.fields.InstanceField(max_length=200, null=True)),
                ("depth", models.SmallIntegerField(db_default=0, default=0)),
                ("member", models.IntegerField(null=True)),
                ("force_chain", models.BooleanField(db_default=False, default=False)),
                ("pass_result", models.BooleanField(db_default=False, default=False)),
                ("unique_key", models.CharField(max_length=200, null=True)),
                ("key", models.CharField(max_length=200, null=True)),
                ("key_limit", models.IntegerField(null=True)),
                ("rate_starts", models.IntegerField(null=True)),
                ("rate_seconds", models.IntegerField(null=True)),
                ("admitted", models.BooleanField(db_default=True, default=True)),
                ("is_coroutine", models.BooleanField(db_default=False, default=False)),
                ("fail_fast", models.BooleanField(db_default=False, default=False)),
                ("ignore_failures", models.BooleanField(db_default=False, default=False)),
                ("compensate", models.JSONField(null=True)),
                ("compensated", models.BooleanField(db_default=False, default=False)),
                ("at_most_once", models.BooleanField(db_default=False, default=False)),
                ("schedule_id", models.BigIntegerField(null=True)),
                ("scheduled_for", models.DateTimeField(null=True)),
                ("claims", models.IntegerField(db_default=0, default=0)),
                ("attempt", models.IntegerField(db_default=0, default=0)),
                ("suspended_claim", models.IntegerField(null=True)),
                ("awaits", models.CharField(max_length=200, null=True)),
                ("retries", models.SmallIntegerField(db_default=0, default=0)),
                ("crashes", models.SmallIntegerField(db_default=0, default=0)),
                ("transients", models.SmallIntegerField(db_default=0, default=0)),
                ("worker", models.CharField(db_default="", default="", max_length=300)),
                ("terminate", models.BooleanField(db_default=False, default=False)),
                ("result", cq.fields.ResultField(null=True)),
                ("outcome", models.CharField(max_length=12, null=True)),
                ("error", models.TextField(null=True)),
                ("exception", models.CharField(max_length=200, null=True)),
                ("traceback", models.TextField(null=True)),
                ("reason", models.TextField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("run_after", models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), null=True)),
                ("delay", models.DurationField(null=True)),
                ("expires", models.FloatField(null=True)),
                ("start_by", models.DateTimeField(null=True)),
                ("started_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                ("result_ttl", models.IntegerField(null=True)),
                ("prune_after", models.DateTimeField(null=True)),
                (
                    "parent",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="subtasks",
                        to="cq.task",
                    ),
                ),
                (
                    "previous",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="next",
                        to="cq.task",
                    ),
                ),
                (
                    "process",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="tasks",
                        to="cq.process",
                    ),
                ),
                (
                    "result_of",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="cq.task",
                    ),
                ),
                (
                    "workflow",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="members",
                        to="cq.task",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "permissions": [("retry_task", "Can retry task"), ("revoke_task", "Can revoke task")],
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="PastAttempt",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.IntegerField()),
                ("started_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                ("worker", models.CharField(default="", max_length=300)),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("success", "Success"),
                            ("error", "Error"),
                            ("timeout", "Timeout"),
                            ("crashed", "Crashed"),
                            ("interrupted", "Interrupted"),
                            ("revoked", "Revoked"),
                        ],
                        max_length=12,
                    ),
                ),
                ("error", models.TextField(null=True)),
                ("exception", models.CharField(max_length=200, null=True)),
                ("traceback", models.TextField(null=True)),
                (
                    "task",
                    models.ForeignKey(on_delete=django.db.models.deletion.DO_NOTHING, related_name="+", to="cq.task"),
                ),
            ],
            options={
                "ordering": ["task", "number"],
            },
        ),
        migrations.AddField(
            model_name="process",
            name="worker",
            field=models.ForeignKey(
                db_constraint=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="processes",
                to="cq.worker",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                models.F("queue"),
                models.OrderBy(models.F("priority"), descending=True),
                models.F("run_after"),
                models.F("id"),
                condition=models.Q(("admitted", True), ("status", "QUEUED")),
                name="cq_task_ready",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                models.F("queue"),
                models.OrderBy(models.F("priority"), descending=True),
                models.F("run_after"),
                models.F("id"),
                condition=models.Q(("admitted", True), ("crashes__gt", 0), ("status", "QUEUED")),
                name="cq_task_suspects",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(
                    ("status__in", ["PENDING", "WAITING"]),
                    models.Q(("admitted", False), ("status", "QUEUED")),
                    _connector="OR",
                ),
                fields=["queue", "status"],
                name="cq_task_blocked",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                models.F("key"),
                models.F("status"),
                models.F("admitted"),
                models.OrderBy(models.F("priority"), descending=True),
                models.F("run_after"),
                models.F("id"),
                condition=models.Q(("key__isnull", False), ("status__in", ["QUEUED", "RUNNING"])),
                name="cq_task_key",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("key__isnull", False), ("started_at__isnull", False)),
                fields=["key", "started_at"],
                name="cq_task_starts",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("attempt", 0), ("start_by__isnull", False), ("status", "QUEUED")),
                fields=["start_by"],
                name="cq_task_start_by",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("prune_after__isnull", False)), fields=["prune_after"], name="cq_task_prune"
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(condition=models.Q(("status", "RUNNING")), fields=["process"], name="cq_task_held"),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("status__in", ["SCHEDULED", "SUSPENDED", "RETRY"])),
                fields=["run_after"],
                name="cq_task_due",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("parent__isnull", False)), fields=["parent", "status"], name="cq_task_below"
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("parent__isnull", False)), fields=["parent", "id"], name="cq_task_subtasks"
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("member__isnull", False)), fields=["parent", "member"], name="cq_task_members"
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("compensate__isnull", False), ("parent__isnull", False), ("status", "SUCCESS")),
                fields=["parent"],
                name="cq_task_undo",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("previous__isnull", False)), fields=["previous"], name="cq_task_next"
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("workflow__isnull", False)), fields=["workflow", "id"], name="cq_task_workflow"
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=cq.models.conditions.Among(
                    "status",
                    models.Case(
                        models.When(
                            finished_at__isnull=True,
                            process__isnull=False,
                            run_after__isnull=False,
                            then=cq.models.conditions.Words(words="RUNNING"),
                        ),
                        models.When(process__isnull=False, then=cq.models.conditions.Words(words="")),
                        models.When(
                            finished_at__isnull=False,
                            then=cq.models.conditions.Words(
                                words="SUCCESS,FAILURE,INCOMPLETE,REVOKED,SKIPPED,LOST,EXPIRED"
                            ),
                        ),
                        models.When(run_after__isnull=True, then=cq.models.conditions.Words(words="SUSPENDED")),
                        default=cq.models.conditions.Words(words="PENDING,SCHEDULED,QUEUED,SUSPENDED,WAITING,RETRY"),
                    ),
                ),
                name="cq_task_status",
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.UniqueConstraint(
                condition=models.Q(
                    ("status__in", ["PENDING", "SCHEDULED", "QUEUED", "RUNNING", "SUSPENDED", "WAITING", "RETRY"]),
                    ("unique_key__isnull", False),
                ),
                fields=("name", "unique_key"),
                name="cq_task_unique",
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.UniqueConstraint(
                condition=models.Q(("schedule_id__isnull", False)),
                fields=("schedule_id", "scheduled_for"),
                name="cq_task_tick",
            ),
        ),
        migrations.AddConstraint(
            model_name="pastattempt",
            constraint=models.UniqueConstraint(fields=("task", "number"), name="cq_pastattempt_once"),
        ),
        migrations.CreateModel(
            name="Statistic",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("minute", models.DateTimeField()),
                ("process_id", models.UUIDField()),
                ("queue", models.CharField(max_length=64)),
                ("name", models.CharField(max_length=200)),
                ("outcome", models.CharField(max_length=12)),
                ("bucket", models.SmallIntegerField()),
                ("count", models.IntegerField()),
                ("run_seconds", models.FloatField()),
                ("wait_seconds", models.FloatField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("minute", "process_id", "queue", "name", "outcome", "bucket"), name="cq_statistic_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Queue",
            fields=[
                ("name", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("paused", models.BooleanField(db_default=False, default=False)),
                ("changed_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name="Key",
            fields=[
                ("name", models.CharField(max_length=200, primary_key=True, serialize=False)),
                ("look_at", models.DateTimeField(null=True)),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("look_at__isnull", False)), fields=["look_at"], name="cq_key_look_at"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="KeyRequest",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=200)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "indexes": [models.Index(fields=["key"], name="cq_keyrequest_key")],
            },
        ),
        migrations.CreateModel(
            name="Errorback",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("task_id", models.UUIDField()),
                ("spec", models.JSONField()),
                ("called", models.BooleanField(db_default=False, default=False)),
            ],
            options={
                "indexes": [models.Index(fields=["task_id"], name="cq_errorback_task")],
            },
        ),
        migrations.CreateModel(
            name="Lingering",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("task_id", models.UUIDField()),
                ("process_id", models.UUIDField()),
                ("key", models.CharField(max_length=200, null=True)),
                ("terminate", models.BooleanField(db_default=False, default=False)),
                ("since", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "indexes": [
                    models.Index(fields=["task_id"], name="cq_lingering_task"),
                    models.Index(fields=["process_id"], name="cq_lingering_process"),
                    models.Index(condition=models.Q(("key__isnull", False)), fields=["key"], name="cq_lingering_key"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Event",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=200)),
                ("payload", cq.fields.EncodedField(null=True)),
                ("by", cq.fields.InstanceField(max_length=200, null=True)),
                ("comment", models.TextField(db_default="", default="")),
                ("permission", models.CharField(max_length=200, null=True)),
                (
                    "outcome",
                    models.CharField(
                        choices=[("accepted", "Accepted"), ("refused", "Refused"), ("timeout", "Timeout")],
                        max_length=8,
                    ),
                ),
                ("reason", models.TextField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "task",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.DO_NOTHING, related_name="events", to="cq.task"
                    ),
                ),
            ],
            options={
                "ordering": ["task", "id"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("outcome", "refused"), _negated=True),
                        fields=("task", "name"),
                        name="cq_event_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Step",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(choices=[("step", "Step"), ("sleep", "Sleep"), ("event", "Event")], max_length=5),
                ),
                ("name", models.CharField(max_length=200)),
                ("attempt", models.IntegerField()),
                ("started_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(null=True)),
                ("until", models.DateTimeField(null=True)),
                ("result", cq.fields.EncodedField(null=True)),
                ("permission", models.CharField(max_length=200, null=True)),
                (
                    "task",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="steps",
                        to="cq.task",
                    ),
                ),
            ],
            options={
                "ordering": ["task", "id"],
                "constraints": [models.UniqueConstraint(fields=("task", "kind", "name"), name="cq_step_once")],
            },
        ),
        migrations.CreateModel(
            name="RepeatingTask",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=100, unique=True)),
                ("task", models.CharField(help_text="The registered name of a task function.", max_length=200)),
                ("args", cq.fields.ArgumentsField(blank=True, default=tuple)),
                ("kwargs", cq.fields.EncodedField(blank=True, default=dict)),
                (
                    "crontab",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="Minute, hour, day, month, day of the week: 0 3 * * mon-fri",
                        max_length=200,
                    ),
                ),
                (
                    "every",
                    cq.fields.IntervalField(
                        blank=True, help_text="Or an interval, from one second on, counted from its start.", null=True
                    ),
                ),
                ("timezone", models.CharField(default=cq.models.repeating.default_timezone, max_length=64)),
                ("enabled", models.BooleanField(db_default=True, default=True)),
                ("starts_at", models.DateTimeField(blank=True, help_text="The first tick that may be.", null=True)),
                ("ends_at", models.DateTimeField(blank=True, help_text="The last tick that may be.", null=True)),
                ("queue", models.CharField(blank=True, max_length=64, null=True)),
                ("priority", models.SmallIntegerField(blank=True, null=True)),
                (
                    "result_ttl",
                    models.IntegerField(blank=True, help_text="Seconds that finished runs are kept.", null=True),
                ),
                (
                    "overlap",
                    models.CharField(
                        choices=[
                            ("skip", "skip the tick"),
                            ("allow", "run both"),
                            ("buffer_one", "run it afterwards (one waits, further ones are skipped)"),
                            ("cancel_running", "revoke the run before it"),
                        ],
                        db_default="skip",
                        default="skip",
                        max_length=20,
                    ),
                ),
                (
                    "catch_up",
                    models.CharField(
                        choices=[
                            ("last", "run the last of them"),
                            ("skip", "skip them"),
                            ("all", "run them all, at most the last 100"),
                        ],
                        db_default="last",
                        default="last",
                        max_length=10,
                    ),
                ),
                (
                    "catch_up_window",
                    cq.fields.IntervalField(
                        blank=True, help_text="No tick older than this is caught up with.", null=True
                    ),
                ),
                (
                    "jitter",
                    cq.fields.IntervalField(
                        blank=True, help_text="Runs start up to so much later, at random.", null=True
                    ),
                ),
                (
                    "max_failures",
                    models.PositiveIntegerField(blank=True, help_text="Pause after so many in a row.", null=True),
                ),
                ("last_run", models.DateTimeField(editable=False, null=True)),
                ("next_run", models.DateTimeField(editable=False, null=True)),
                ("planned", models.BooleanField(db_default=False, default=False, editable=False)),
                ("buffered", models.DateTimeField(editable=False, null=True)),
                ("skipped", models.JSONField(default=dict, editable=False)),
                ("reason", models.TextField(editable=False, null=True)),
                ("source", models.CharField(db_default="", default="", editable=False, max_length=10)),
                ("replaced", cq.fields.EncodedField(default=list, editable=False)),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
                (
                    "enabled_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
            ],
            options={
                "ordering": ["name"],
                "permissions": [("run_repeatingtask", "Can run repeating task now")],
                "base_manager_name": "objects",
            },
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("schedule_id__isnull", False)), fields=["schedule_id", "id"], name="cq_task_runs"
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(
                    ("schedule_id__isnull", False),
                    ("status__in", ["PENDING", "SCHEDULED", "QUEUED", "RUNNING", "SUSPENDED", "WAITING", "RETRY"]),
                ),
                fields=["schedule_id"],
                name="cq_task_live_runs",
            ),
        ),
        migrations.AddIndex(
            model_name="repeatingtask",
            index=models.Index(condition=models.Q(("enabled", True)), fields=["next_run"], name="cq_repeatingtask_due"),
        ),
        migrations.AddConstraint(
            model_name="repeatingtask",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("crontab", ""), ("every__isnull", False)),
                    models.Q(models.Q(("crontab", ""), _negated=True), ("every__isnull", True)),
                    _connector="OR",
                ),
                name="cq_repeatingtask_when",
            ),
        ),
        # However a timetable is edited, by whatever statement: what was planned from the old one is planned anew.
        migrations.RunSQL(
            """
            CREATE FUNCTION cq_plan_anew() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                NEW.planned = false;
                IF NEW.enabled AND NOT OLD.enabled THEN
                    NEW.enabled_at = statement_timestamp();
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER cq_repeatingtask_edited
                BEFORE UPDATE OF crontab, every, timezone, starts_at, ends_at, enabled ON cq_repeatingtask FOR EACH ROW
                WHEN (ROW(NEW.crontab, NEW.every, NEW.timezone, NEW.starts_at, NEW.ends_at, NEW.enabled) IS DISTINCT FROM
                      ROW(OLD.crontab, OLD.every, OLD.timezone, OLD.starts_at, OLD.ends_at, OLD.enabled)
                      AND NEW.next_run IS NOT DISTINCT FROM OLD.next_run) EXECUTE FUNCTION cq_plan_anew()
            """,
            """
            DROP TRIGGER IF EXISTS cq_repeatingtask_edited ON cq_repeatingtask;
            DROP FUNCTION cq_plan_anew()
            """,
        ),
        # Rows change a few times in their life and are asked for by what they are now: leave room for their new versions, and
        # clear away the old ones early.
        migrations.RunSQL(
            """
            ALTER TABLE cq_task SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
            ALTER TABLE cq_settlerequest SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
                autovacuum_vacuum_cost_delay = 0);
            ALTER TABLE cq_keyrequest SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
                autovacuum_vacuum_cost_delay = 0)
            """,
            migrations.RunSQL.noop,
        ),
        # Whenever a task with a key becomes ready or gives its place back, by whatever statement, its key is to be looked at. What a
        # trigger asks is read at each statement that writes, like a check: so it is short, and the rest stands in the function.
        migrations.RunSQL(
            """
            CREATE FUNCTION cq_ask_for_key() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.status = 'QUEUED' OR NEW.status <> 'RUNNING' AND OLD.status IN ('QUEUED', 'RUNNING') THEN
                    INSERT INTO cq_keyrequest (key) VALUES (NEW.key);
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER cq_task_moved AFTER INSERT OR UPDATE OF status ON cq_task FOR EACH ROW
                WHEN (NEW.key IS NOT NULL) EXECUTE FUNCTION cq_ask_for_key();
            CREATE FUNCTION cq_ask_for_lingering() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO cq_keyrequest (key) VALUES (OLD.key);
                RETURN NULL;
            END $$;
            CREATE TRIGGER cq_lingering_gone AFTER DELETE ON cq_lingering FOR EACH ROW
                WHEN (OLD.key IS NOT NULL) EXECUTE FUNCTION cq_ask_for_lingering()
            """,
            """
            DROP TRIGGER IF EXISTS cq_lingering_gone ON cq_lingering;
            DROP FUNCTION cq_ask_for_lingering();
            DROP TRIGGER IF EXISTS cq_task_moved ON cq_task;
            DROP FUNCTION cq_ask_for_key()
            """,
        ),
        # Whoever writes the failing end of a task makes its errorbacks with it, by whatever statement. They follow it without being
        # part of what its parent waits for. The row of an errorback is locked while it is called: it happens once.
        migrations.RunSQL(
            """
            CREATE FUNCTION cq_call_errorbacks(failed uuid) RETURNS SETOF text LANGUAGE sql AS $$
                WITH called AS (
                    UPDATE cq_errorback SET called = true
                     WHERE id = ANY(ARRAY(
                            SELECT id FROM cq_errorback WHERE task_id = failed AND NOT called ORDER BY id FOR UPDATE SKIP LOCKED))
                    RETURNING spec)
                INSERT INTO cq_task (id, name, queue, priority, options, created_by, subject, args, kwargs, expires, at_most_once,
                                     key, key_limit, rate_starts, rate_seconds, is_coroutine, admitted, fail_fast, ignore_failures,
                                     force_chain, previous_id, workflow_id, run_after, start_by, status)
                SELECT d.id, d.name, d.queue, d.priority, d.options, d.created_by, d.subject,
                       jsonb_build_array(jsonb_build_object('$cq', jsonb_build_array('uuid', t.id)),
                                         coalesce(t.reason, t.error, '')) || d.args,
                       d.kwargs, d.expires, coalesce(d.at_most_once, false), d.key, d.key_limit, d.rate_starts, d.rate_seconds,
                       coalesce(d.is_coroutine, false), d.key IS NULL, coalesce(d.fail_fast, false),
                       coalesce(d.ignore_failures, false), true, t.id, coalesce(t.workflow_id, t.id), due,
                       due + make_interval(secs => d.expires),
                       CASE WHEN due > statement_timestamp() THEN 'SCHEDULED' ELSE 'QUEUED' END
                  FROM called,
                       jsonb_to_record(spec) AS d(
                           id uuid, name text, queue text, priority smallint, run_after timestamptz, delay float8, options jsonb,
                           created_by text, subject text, args jsonb, kwargs jsonb, expires float8, at_most_once boolean, key text,
                           key_limit int, rate_starts int, rate_seconds int, is_coroutine boolean, fail_fast boolean,
                           ignore_failures boolean),
                       LATERAL (SELECT GREATEST(statement_timestamp(), d.run_after,
                                                statement_timestamp() + make_interval(secs => coalesce(d.delay, 0)))) AS at(due),
                       cq_task t
                 WHERE t.id = failed
                RETURNING queue
            $$;
            CREATE FUNCTION cq_task_has_failed() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM cq_call_errorbacks(NEW.id);
                IF FOUND THEN
                    INSERT INTO cq_settlerequest (task_id) VALUES (NEW.id);
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER cq_task_failed AFTER UPDATE OF status ON cq_task FOR EACH ROW
                WHEN (NEW.status = ANY('{FAILURE,INCOMPLETE,LOST,EXPIRED}')) EXECUTE FUNCTION cq_task_has_failed()
            """,
            """
            DROP TRIGGER IF EXISTS cq_task_failed ON cq_task;
            DROP FUNCTION cq_task_has_failed();
            DROP FUNCTION cq_call_errorbacks(uuid)
            """,
        ),
        # The inserts that most calls of `delay()` and `chain()` are: as functions, for their plans are kept on the server, whoever's
        # session it is. A plan is kept from when the table was short, so the second may take no other way than the primary key.
        migrations.RunSQL(
            """
            CREATE FUNCTION cq_enqueue(id uuid, args jsonb, kwargs jsonb, name text, queue text, priority int, result_ttl int,
                                       options jsonb, created_by text, subject text)
                RETURNS timestamptz LANGUAGE plpgsql AS $$
            #variable_conflict use_column
            DECLARE
                now timestamptz;
            BEGIN
                INSERT INTO cq_task (id, args, kwargs, name, queue, priority, result_ttl, options, created_by, subject, status)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'QUEUED') RETURNING created_at INTO now;
                RETURN now;
            END $$;
            CREATE FUNCTION cq_enqueue_next(previous uuid, id uuid, args jsonb, kwargs jsonb, name text, queue text, priority int,
                                            force_chain boolean, pass_result boolean, options jsonb, created_by text, subject text,
                                            delay float8, due timestamptz,
                                            OUT created_at timestamptz, OUT run_after timestamptz, OUT workflow_id uuid)
                RETURNS SETOF record LANGUAGE plpgsql SET enable_seqscan = off AS $$
            #variable_conflict use_column
            DECLARE
                wait interval = make_interval(secs => $13);
            BEGIN
                SELECT coalesce(t.workflow_id, t.id) INTO workflow_id FROM cq_task t
                 WHERE t.id = $1 AND t.finished_at IS NULL AND t.parent_id IS NULL FOR KEY SHARE;
                IF NOT FOUND THEN
                    RETURN;
                END IF;
                INSERT INTO cq_settlerequest (task_id) VALUES ($1);
                INSERT INTO cq_task AS t (id, args, kwargs, name, queue, priority, force_chain, pass_result, options, created_by,
                                          subject, delay, run_after, previous_id, workflow_id, status)
                VALUES ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, wait,
                        GREATEST(statement_timestamp(), $14, statement_timestamp() + coalesce(wait, interval '0')),
                        $1, cq_enqueue_next.workflow_id, 'PENDING')
                RETURNING t.created_at, t.run_after INTO created_at, run_after;
                RETURN NEXT;
            END $$
            """,
            """
            DROP FUNCTION cq_enqueue_next(uuid, uuid, jsonb, jsonb, text, text, int, boolean, boolean, jsonb, text, text, float8,
                                          timestamptz);
            DROP FUNCTION cq_enqueue(uuid, jsonb, jsonb, text, text, int, int, jsonb, text, text)
            """,
        ),
        # Past attempts, and the last one, which lives on its task.
        migrations.RunSQL(
            """
            CREATE VIEW cq_attempt AS
            SELECT p.task_id::text || ':' || p.number AS id, p.task_id, p.number, p.started_at, p.ended_at, p.worker, p.outcome,
                   p.error, p.exception, p.traceback
              FROM cq_pastattempt p
            UNION ALL
            SELECT t.id::text || ':' || t.attempt, t.id, t.attempt, t.started_at, t.ended_at, t.worker, t.outcome,
                   CASE WHEN t.outcome = 'crashed' THEN 'The worker process died.'
                        WHEN t.outcome IN ('error', 'timeout') THEN t.error END,
                   CASE WHEN t.outcome IN ('error', 'timeout') THEN t.exception END,
                   CASE WHEN t.outcome IN ('error', 'timeout') THEN t.traceback END
              FROM cq_task t
             WHERE t.attempt > 0
               AND NOT EXISTS (SELECT 1 FROM cq_pastattempt p WHERE p.task_id = t.id AND p.number = t.attempt)
            """,
            "DROP VIEW cq_attempt",
        ),
    ]
