"""Oracles: the import order written below (DESIGN.md), Python's own list of loaded modules, and `__all__`."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import jaxscale

# A module imports only from its left; a folder is one module. A new module needs its place here.
ORDER = ("errors units roots laws runs objectives terms powers problem solver minimise batching vertex starts task "
         "certificate uncertainty wander stacks report fitting prediction profiles implicit files groups sweeps "
         "planning validation cuts pooling tables cards designs schedules datasets recipes training plotting "
         "cli").split()
# The exceptions, each inside a function: a method of Fit that is the door to what comes after a fit, and the readers of
# tables, which load pandas.
DEFERRED = {("fitting", "files"), ("fitting", "groups"), ("fitting", "prediction"), ("fitting", "profiles"),
            ("groups", "tables"), ("cuts", "tables"), ("sweeps", "tables"), ("task", "tables"),
            ("uncertainty", "prediction"), ("validation", "tables")}
PACKAGE = Path(jaxscale.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file):
    """Where a file stands in the order: its folder inside the package, or its own name."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(nodes):
    """The modules of jaxscale that these statements import: `jaxscale.laws.base` is laws."""
    names = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import: say `from jaxscale.` in full"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("jaxscale.")}


@pytest.mark.parametrize("file", [f for f in FILES if f.parent != PACKAGE or not f.name.startswith("__")],
                         ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_only_from_the_left(file):
    module = module_of(file)
    assert module in ORDER, f"{file.name} has no place in the order: {' '.join(ORDER)}"
    allowed = {*ORDER[:ORDER.index(module)], *({module} if file.parent != PACKAGE else ())}
    tree = ast.parse(file.read_text())
    assert imported(tree.body) <= allowed
    assert {(module, other) for other in imported(ast.walk(tree)) - allowed} <= DEFERRED


def test_importing_is_light():
    """No pandas, no plotting, no command line, nothing printed, and no `jax.config` value changed."""
    script = """
import json, sys
import jax
before = dict(jax.config.values)
import jaxscale
after = dict(jax.config.values)
changed = [name for name in after if before.get(name) != after[name]]
print(json.dumps({"modules": sorted(sys.modules), "changed": changed}))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout.count("\n") == 1
    said = json.loads(done.stdout)
    assert said["changed"] == []
    assert not {"pandas", "matplotlib", "typer", "rich", "pyarrow", "scipy.optimize"} & set(said["modules"])


def test_all_is_what_is_exposed():
    """What the package defines and shows is in `__all__`, and each name there is found."""
    assert len(jaxscale.__all__) == len(set(jaxscale.__all__))
    found = {name: getattr(jaxscale, name) for name in jaxscale.__all__}
    modules = {file.stem for file in PACKAGE.iterdir()}
    shown = {name for name, value in vars(jaxscale).items() if not name.startswith("_") and name not in modules
             and getattr(value, "__module__", "").startswith("jaxscale")}
    assert shown <= set(found)
    assert jaxscale.__doc__ and isinstance(jaxscale.__version__, str)


def test_unknown_names_are_said():
    with pytest.raises(AttributeError, match="chinchila"):
        _ = jaxscale.chinchila
