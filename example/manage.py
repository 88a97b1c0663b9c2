#!/usr/bin/env python
"""Django's command line for the example; begin with `manage.py survey`."""

import os
import sys
from pathlib import Path


def main() -> None:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout: everything here is imported as example.…
    os.environ["DJANGO_SETTINGS_MODULE"] = "example.project.settings"
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
