"""How the parameters of a test are called: alike in each process that runs it."""

import re


def shown(value: object) -> str:
    """Represent a parameter without the address that it has in this process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
