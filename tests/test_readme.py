"""Oracle: the README itself. Its Python blocks run, in order, and its commands are ones that the command line knows."""

import re
import warnings
from pathlib import Path

import jaxscale.cli

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # extrapolations, which the README shows on purpose
        for block in re.findall(r"```python\n(.*?)```", README, re.S):
            exec(block, scope)
    assert {"fit", "plan", "boot", "OverTrained"} <= set(scope)


def test_commands_are_known(capsys):
    verbs = set(re.findall(r"^jaxscale (\w+)", README, re.M))
    assert set(jaxscale.cli.VERBS) == verbs
    for verb in verbs:
        assert jaxscale.cli.main([verb, "--help"]) == 0
    capsys.readouterr()
