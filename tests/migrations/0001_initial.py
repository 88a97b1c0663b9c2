import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("cq", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Keyed",
            fields=[
                ("key", models.CharField(max_length=500, primary_key=True, serialize=False)),
            ],
        ),
        migrations.CreateModel(
            name="Effect",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("task_id", models.UUIDField()),
                ("attempt", models.IntegerField()),
                ("name", models.CharField(default="", max_length=100)),
            ],
            options={
                "indexes": [models.Index(fields=["task_id"], name="tests_effect_task")],
            },
        ),
        migrations.CreateModel(
            name="Refers",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "cascades",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.CASCADE, related_name="+", to="cq.task"
                    ),
                ),
                (
                    "does_nothing",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name="+", to="cq.task"
                    ),
                ),
                (
                    "is_set_null",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to="cq.task"
                    ),
                ),
                (
                    "protects",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="cq.task"
                    ),
                ),
            ],
        ),
    ]
