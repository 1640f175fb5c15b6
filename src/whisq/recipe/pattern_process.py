"""The process in which a pattern that could run for ever is matched. It is a script, run by ``patterns``, not imported.

A line of JSON in, ``{"pattern": …, "names": […], "seconds": …}``; a line out: ``{"matched": […], "seconds": …}``, or
``{"wrong": …}`` for what is not a regular expression. It dies when the processor time of one request is used up.
"""

import contextlib
import json
import re
import signal
import sys
import time
import warnings

MOST_BYTES = 1 << 30
"""Of memory: a pattern of a few characters can ask for any amount."""


def answer(request: dict[str, object]) -> dict[str, object]:
    """Return the reply to one request."""
    started = time.process_time()
    pattern, names = request["pattern"], request["names"]
    try:
        compiled = re.compile(str(pattern))
        matched = [compiled.fullmatch(name) is not None for name in names]  # type: ignore[attr-defined]
    except RecursionError:
        return {"wrong": "it is nested too deeply"}
    except (re.error, ValueError, OverflowError, MemoryError) as error:
        return {"wrong": str(error) or "it takes too much memory"}
    return {"matched": matched, "seconds": time.process_time() - started}


def limit_memory() -> None:
    """Let the process fail rather than take the machine's memory."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))


def limit_time(seconds: float) -> None:
    """Have the process end when it has computed for so long; 0 takes that back. On Windows whoever asks ends it."""
    if sys.platform != "win32":
        # Without a handler the signal ends the process, even where the engine looks at no signals.
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)


def main() -> None:
    """Answer requests until there are no more."""
    warnings.simplefilter("ignore")
    limit_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        limit_time(float(request["seconds"]))
        reply = answer(request)
        limit_time(0)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
