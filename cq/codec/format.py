"""The stored form, as far as both directions must agree on it."""

TAG = "$cq"
MAX_NESTING = 100
ALLOWED = (
    "None, bool, int, float, str, list, dict with str keys, tuple, set, frozenset, bytes, datetime, date, time, "
    "timedelta, UUID, Decimal, members of enums, and saved model instances"
)
