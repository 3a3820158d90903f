"""The one place where the strangers wait for what a program does: asked again and again, because nobody tells."""

import time


def until(what: str, look):
    """Asks `look` until it finds something."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain until {what}")
