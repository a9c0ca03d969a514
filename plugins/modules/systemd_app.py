#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_systemd``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: systemd_app
short_description: A service under systemd, with its configuration, in one call
version_added: 0.1.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Writes a service's configuration files and unit atomically, enables and starts it.
  - Restarts (or reloads) it if one of its inputs is newer than the running process, whoever wrote that input and whenever. A run that was
    interrupted between the writing and the restart is therefore mended by the next one, and nothing is restarted twice.
  - If a validator refuses one staged file, no file is replaced.
extends_documentation_fragment: [baremetal.llm.service_files, baremetal.llm.attributes]
options:
  name:
    description: Name of the unit, without C(.service).
    type: str
    required: true
  state:
    description: V(absent) stops and disables the unit and removes it; O(files) and O(secret_files) are then not looked at.
    type: str
    choices: [present, absent]
    default: present
  start:
    description: V(false) prepares and enables a service that cannot run yet, such as one that waits for a reboot.
    type: bool
    default: true
  unit:
    description: Content of the unit file. Required if O(state=present).
    type: str
  user:
    description: A system user without a shell, who is created, with a group of the same name, if there is none.
    type: str
    default: ''
  home:
    description: The home directory of a user that is created. It is not made.
    type: path
    default: /nonexistent
  group:
    description: Group of all files. Their owner is root.
    type: str
    default: root
  inputs:
    description: Further paths that the service reads at its start, such as a link to its version or a file that another task writes.
    type: list
    elements: path
    default: []
  reloadable:
    description: Paths out of O(files), O(secret_files) and O(inputs) for which C(systemctl reload) is enough.
    type: list
    elements: path
    default: []
  ports:
    description: TCP ports that must be free before the service is started.
    type: list
    elements: int
    default: []
  container:
    description:
      - Name of a Docker container that ran the service until now, the other way to run it. It is stopped and removed before the unit is written.
      - It is looked for only if there is no unit yet.
    type: str
    version_added: 0.2.0
  url:
    description: An address that answers 200 once the service does its work. Needed with O(standby).
    type: str
    version_added: 0.2.0
  timeout:
    description: Seconds that one of the two may take to answer after its start. Only looked at with O(standby).
    type: int
    default: 90
    version_added: 0.2.0
  standby:
    description:
      - A second service of the same user and files, that takes over while the first one is replaced.
      - Each of the two is restarted only while the other answers, the standby first. If it does not come up, the first is left as it is.
      - With O(state=absent) it is removed too; of the rest only the O(standby.name) is looked at.
    type: dict
    version_added: 0.2.0
    suboptions:
      name:
        description: Name of its unit, without C(.service).
        type: str
        required: true
      state:
        description: V(absent) removes it.
        type: str
        choices: [present, absent]
        default: present
      unit:
        description: Content of its unit file. Required if it is present.
        type: str
      ports:
        description: TCP ports that must be free before it is started.
        type: list
        elements: int
        default: []
      url:
        description: An address that answers 200 once it does its work. Required if it is present.
        type: str
"""

EXAMPLES = r"""
- name: A web server with one file
  baremetal.llm.systemd_app:
    name: llm-files
    unit: |
      [Service]
      ExecStart=/usr/bin/python3 -m http.server 8000 --directory /srv
      [Install]
      WantedBy=multi-user.target
    files:
      - path: /etc/llm/files/motd
        content: hello
    ports: [8000]

- name: A service that is replaced without a gap
  baremetal.llm.systemd_app:
    name: llm-proxy
    unit: "{{ lookup('ansible.builtin.template', 'proxy.service.j2') }}"
    ports: [4000]
    url: http://127.0.0.1:4000/health
    standby:
      name: llm-proxy-standby
      unit: "{{ lookup('ansible.builtin.template', 'proxy-standby.service.j2') }}"
      ports: [4001]
      url: http://127.0.0.1:4001/health
"""

RETURN = r"""
action:
  description: What was done to the process, or would be in check mode; if nothing, then what was done to that of O(standby).
  returned: success
  type: str
  sample: restart
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._container_app import absent as container_absent
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._file_options import file_options, file_specs
from ansible_collections.baremetal.llm.plugins.module_utils._standby import Instance, present_with_standby, standby
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import UNIT_DIRECTORY, App, Outcome, absent, merged, present


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "start": {"type": "bool", "default": True},
            "unit": {"type": "str"},
            "user": {"type": "str", "default": ""},
            "home": {"type": "path", "default": "/nonexistent"},
            **file_options(),
            "group": {"type": "str", "default": "root"},
            "inputs": {"type": "list", "elements": "path", "default": []},
            "reloadable": {"type": "list", "elements": "path", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
            "container": {"type": "str"},
            "url": {"type": "str"},
            "timeout": {"type": "int", "default": 90},
            "standby": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                    "unit": {"type": "str"},
                    "ports": {"type": "list", "elements": "int", "default": []},
                    "url": {"type": "str"},
                },
                "required_if": [("state", "present", ["unit", "url"])],
            },
        },
        required_if=[("state", "present", ["unit"])],
        supports_check_mode=True,
    )
    params = module.params
    try:
        outcome = merged(_end_container(params, module), _make_it_so(params, module))
    except (LLMError, OSError) as exc:
        module.fail_json(msg=f"{params['name']}: {exc}", exception=exc)
    module.exit_json(changed=outcome.changed, action=outcome.action, diff=outcome.diff)


def _end_container(params: dict, module: AnsibleModule) -> Outcome:
    if params["state"] == "absent" or not params["container"] or (UNIT_DIRECTORY / f"{params['name']}.service").exists():
        return Outcome(False, "", {"before": "", "after": ""})
    found = container_absent(params["container"], Docker(), module.check_mode)
    return Outcome(found.changed, "", found.diff)


def _make_it_so(params: dict, module: AnsibleModule) -> Outcome:
    run, check, second = module.run_command, module.check_mode, params["standby"]
    if params["state"] == "present" and second and second["state"] == "present":
        first = _app(params)
        if not params["url"]:
            raise InputError("With a standby, url is needed: it says when the first one answers.")
        spare = standby(first, second["name"], second["unit"], tuple(second["ports"]))
        timeout = params["timeout"]
        return present_with_standby(Instance(first, params["url"], timeout), Instance(spare, second["url"], timeout), run, check)
    outcome = present(_app(params), run, check) if params["state"] == "present" else absent(params["name"], run, check)
    return merged(outcome, absent(second["name"], run, check)) if second else outcome


def _app(params: dict) -> App:
    return App(
        name=params["name"],
        unit=params["unit"],
        user=params["user"],
        home=params["home"],
        start=params["start"],
        files=file_specs(params, params["group"]),
        inputs=tuple(Path(path) for path in params["inputs"]),
        reloadable=frozenset(Path(path) for path in params["reloadable"]),
        ports=tuple(params["ports"]),
    )


if __name__ == "__main__":
    main()
