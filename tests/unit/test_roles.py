# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every role and plugin of the collection has in common."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.baremetal.llm.tests.role_docs import BEGIN, rendered

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "str": (str,),
    "path": (str,),
    "list": (list,),
    "dict": (dict,),
}


def load(path: Path) -> t.Any:
    return yaml.safe_load(path.read_text())


def specs(role: Path) -> dict[str, dict[str, t.Any]]:
    return load(role / "meta/argument_specs.yml")["argument_specs"]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_argument_specs_equal_the_defaults(role: Path) -> None:
    defaults = load(role / "defaults/main.yml")
    options = {name: about for spec in specs(role).values() for name, about in spec["options"].items()}
    assert set(options) == set(defaults)
    required = {name for name, about in options.items() if about.get("required")}
    assert {name: about["default"] for name, about in options.items() if name not in required} == {
        name: value for name, value in defaults.items() if name not in required
    }


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_default_has_the_type_of_its_option(role: Path) -> None:
    for spec in specs(role).values():
        for name, about in spec["options"].items():
            value = about.get("default")
            if not about.get("required") and not (isinstance(value, str) and "{{" in value):
                assert isinstance(value, TYPES[about["type"]]), name
                assert about["type"] != "int" or not isinstance(value, bool), name


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_inputs_are_prefixed_and_the_rest_is_internal(role: Path) -> None:
    for name in load(role / "defaults/main.yml"):
        assert name.startswith(f"{role.name}_")
    for path in role.glob("tasks/*.yml"):
        for name in re.findall(r"register: (\w+)|loop_var: (\w+)", path.read_text()):
            assert "".join(name).startswith(f"__{role.name}_"), path


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_is_complete(role: Path) -> None:
    assert load(role / "meta/main.yml")["galaxy_info"]["license"] == "GPL-3.0-or-later"
    if role.name != "common":
        assert (role / "tasks/main.yml").exists()
        assert load(role / "defaults/main.yml")[f"{role.name}_state"] == "present"
    for path in role.rglob("*.yml"):
        assert not re.search(r"tasks_from: \w+\.yml", path.read_text()), f"{path}: this skips the argument spec"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_readme_is_up_to_date(role: Path) -> None:
    readme = (role / "README.md").read_text()
    assert BEGIN in readme
    assert readme == rendered(role), "run: python tests/role_docs.py"


def test_every_module_is_in_the_action_group() -> None:
    listed = load(ROOT / "meta/runtime.yml")["action_groups"]["all"]
    assert listed == sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.stem)
def test_a_plugin_names_its_licence(path: Path) -> None:
    head = [line for line in path.read_text().splitlines()[:3] if not line.startswith("#!")]
    assert head[0] == "# Copyright: the baremetal.llm authors"
    assert head[1].startswith("# GNU General Public License v3.0+")


def test_no_stand_in_is_shipped() -> None:
    doubles = [path.stem for path in (ROOT / "tests/doubles").glob("*") if path.is_file()]
    assert doubles
    for place in ("roles", "plugins", "playbooks"):
        for path in (ROOT / place).rglob("*"):
            if path.is_file() and path.suffix in (".py", ".yml", ".j2"):
                assert "tests/doubles" not in path.read_text(), path


@pytest.mark.parametrize("path", sorted((ROOT / "tests/doubles").glob("*.py")), ids=lambda path: path.stem)
def test_a_stand_in_says_so_and_is_listed(path: Path) -> None:
    assert "stand-in" in path.read_text()[:600].lower()
    assert f"doubles/{path.name}" in (ROOT / "tests/README.md").read_text()
