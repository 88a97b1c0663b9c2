"""What CQ's pure parts mean: states, values, retries. Most of these tests need no database."""
