"""The command line: a verb a module, from `jaxscale fit` to `jaxscale laws`.

A verb returns an `Answer`; everything is printed here, so that stdout holds the answer alone (with --json one JSON
document), stderr what a reader should know, and no error shows a traceback. Exit codes: 0 done, 1 the numbers would
mislead, 2 bad input or usage, 130 Ctrl-C. JAX and pandas are imported inside the verbs, after `prepare`.
"""

import difflib
import json
import os
import sys
import warnings
from dataclasses import replace

from jaxscale.cli.answer import Answer, misleading
from jaxscale.cli.environment import INTERRUPTED, ends_at_once, prepare
from jaxscale.errors import FitError, InputError

VERBS = ("design", "fit", "predict", "plan", "pareto", "forecast", "backtest", "recipe", "approaches", "compare",
         "verify", "laws")
CLOSED_PIPE = 141  # what a shell reports of a program that wrote to a closed pipe


def main(arguments=None):
    """Run one command line (that of the process by default) -> exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        prepare(cache="--no-cache" not in arguments)
        with ends_at_once():
            answer = _run(arguments)
        return _give(answer, "--json" in arguments)
    except KeyboardInterrupt:
        return _give(Answer(reason="interrupted.", code=INTERRUPTED), False)
    except BrokenPipeError:
        _forget(sys.stdout)
        return CLOSED_PIPE


def _run(arguments):
    """The answer of the verb, or of the error that ended it."""
    verb = next((word for word in arguments if word not in ("--json", "--no-cache")), "")
    if verb not in VERBS and not verb.startswith("-"):
        near = difflib.get_close_matches(verb, VERBS, 1)
        return _bad(f"wanted is a verb, one of {', '.join(VERBS)}, and there is {repr(verb) if verb else 'none'}: "
                    f"{f'did you mean {near[0]!r}?' if near else 'see jaxscale --help.'}")
    try:
        from jaxscale.cli.app import command
    except ModuleNotFoundError as error:
        return _bad(f"the command line needs typer and rich, and {error.name} is not installed: "
                    'pip install "jaxscale[cli]"')
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", module="jaxscale")
            answer = command().main(args=arguments, prog_name="jaxscale", standalone_mode=False)
    except InputError as error:
        return _bad(error)
    except FitError as error:
        return misleading(_line(error))
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error, of typer or of click
            where = getattr(getattr(error, "ctx", None), "command_path", "jaxscale")
            return _bad(f"{_line(error.format_message()).rstrip('.')}: see '{where} --help'.")
        if os.environ.get("JAXSCALE_TRACEBACK"):
            raise
        return misleading(f"jaxscale failed by a fault of its own ({type(error).__name__}: {_line(error)[:200]}): "
                          "please report it with what JAXSCALE_TRACEBACK=1 shows.")
    if not isinstance(answer, Answer):  # help or the version were printed
        return Answer()
    return replace(answer, notes=(*answer.notes, *(str(warning.message) for warning in said)))


def _line(error):
    return " ".join(str(error).split())


def _bad(error):
    reason = _line(error)
    return Answer(document={"reason": reason}, reason=reason, code=2)


def _give(answer, as_json):
    """Write and print an answer -> exit code."""
    if answer.output is not None:
        from jaxscale.files import write_atomically

        try:
            write_atomically(answer.output, _json(answer) + "\n", keep=answer.source)
        except InputError as error:
            answer = _bad(error)
    for note in answer.notes:
        print(_line(note), file=sys.stderr)
    if answer.reason:
        print(f"jaxscale: {_line(answer.reason)}", file=sys.stderr)
    text = _json(answer) if as_json and answer.document else answer.text
    try:
        print(text, end="\n" if text else "", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"jaxscale: the answer cannot be written ({error.strerror}): free some space.", file=sys.stderr)
        _forget(sys.stdout)
        return 2
    return answer.code


def _json(answer):
    return json.dumps(answer.document, indent=1, allow_nan=False)


def _forget(stream):
    """Have Python not try again to write what is left in a stream, and complain, when it ends."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
