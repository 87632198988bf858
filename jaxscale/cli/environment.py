"""What a command sets for its process: where compiled code is kept, that JAX keeps quiet, and what Ctrl-C does."""

import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = 130


def prepare(cache=True):
    """Keep compiled code between commands, in the user's cache folder; no effect where JAX is loaded already.

    What the user has set stands. A folder that cannot be written is no cache, and no error. The cache is off with
    cache=False, or JAXSCALE_NO_CACHE=1 in the environment.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal's encoding does not have
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)  # "a GPU may be present", "falling back to cpu"
    if "jax" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not cache or os.environ.get("JAXSCALE_NO_CACHE", "0") not in ("", "0"):
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    elif "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache_folder()
        if folder:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
            # By default JAX keeps only what took a second to compile; the many small functions add up.
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def cache_folder():
    """The folder of compiled code, made if need be; None where it cannot be written."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxscale"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


_at_interruption = ["nothing was written"]


def say_when_interrupted(what):
    """What Ctrl-C reports instead of that nothing was written."""
    _at_interruption[0] = what


@contextmanager
def ends_at_once():
    """Ctrl-C ends the process here and now, in one line: as an exception it gets lost in callbacks inside JAX."""
    def stop(*_):
        shown = "\r\x1b[2K\x1b[?25h" if sys.stderr.isatty() else ""  # the progress bar goes, the cursor comes back
        os.write(2, f"{shown}jaxscale: interrupted, {_at_interruption[0]}.\n".encode())
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
