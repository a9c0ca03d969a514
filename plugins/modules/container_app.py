#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_container_app``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_app
short_description: What a service in a container needs of its host, and its removal
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Makes the user of a service, the directory for its data and its files, and removes a systemd unit of the same name, which is the other way
    to run it. The container itself is made by M(community.docker.docker_container), with O(name) as its name.
  - Says whether the running container is older than one of its inputs, whoever wrote that input and whenever. A run that was interrupted
    between the writing and the restart is therefore mended by the next one, and nothing is restarted twice.
  - If a validator refuses one staged file, no file is replaced. Validators run in the image.
extends_documentation_fragment: [baremetal.llm.service_files, baremetal.llm.attributes]
attributes:
  check_mode:
    details: If there is no Docker engine yet, check mode reports what would be changed besides the container.
options:
  name:
    description: Name of the container, of its user and of a unit that it takes the place of.
    type: str
    required: true
  state:
    description: V(absent) stops and removes the container; its files are then not looked at.
    type: str
    choices: [present, absent]
    default: present
  image:
    description: The image, by its content. Required if O(state=present).
    type: str
  purge:
    description: With O(state=absent) the image is removed too, unless another container uses it.
    type: bool
    default: false
  home:
    description: Directory for its data. Required if O(state=present).
    type: path
  inputs:
    description: Further paths that the service reads at its start.
    type: list
    elements: path
    default: []
  ports:
    description: TCP ports that must be free before the service is started.
    type: list
    elements: int
    default: []
  units:
    description: Further units that are removed, because they belong to the other way to run it.
    type: list
    elements: str
    default: []
  leftovers:
    description: Paths that are removed, because they belong to the other way to run it.
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: A web server with one file
  baremetal.llm.container_app:
    name: llm-files
    image: docker.io/library/nginx@sha256:0000000000000000000000000000000000000000000000000000000000000000
    home: /var/lib/llm/files
    files:
      - path: /etc/llm/files/nginx.conf
        content: "events {}"
        validate: [nginx, -t, -c, "%s"]
    ports: [8000]
  register: app

- name: Run it
  community.docker.docker_container:
    name: llm-files
    image: docker.io/library/nginx@sha256:0000000000000000000000000000000000000000000000000000000000000000
    restart: "{{ app.restart }}"
    user: "{{ app.uid }}:{{ app.gid }}"
    volumes: ["/etc/llm/files:/etc/llm/files:ro"]
"""

RETURN = r"""
restart:
  description: Whether the container runs and is older than one of its inputs.
  returned: success
  type: bool
engine:
  description: Version of the Docker engine; empty if there is none, as it may be in check mode.
  returned: success
  type: str
  sample: 26.1.5+dfsg1
cdi:
  description: Whether the engine hands GPUs out by CDI. One that does not has NVIDIA's runtime.
  returned: success
  type: bool
open_files:
  description: How many files the container may have open, 65536 or what the machine's own limit is.
  returned: success
  type: int
  sample: 65536
uid:
  description: Number of the user, V(-1) if there is none yet in check mode.
  returned: success
  type: int
gid:
  description: Number of the user's group.
  returned: success
  type: int
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._container_app import ContainerApp, Host, absent, open_files, prepare
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, has_cdi
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._file_options import file_options, file_specs


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "image": {"type": "str"},
            "purge": {"type": "bool", "default": False},
            "home": {"type": "path"},
            **file_options(),
            "inputs": {"type": "list", "elements": "path", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "leftovers": {"type": "list", "elements": "path", "default": []},
        },
        required_if=[("state", "present", ["image", "home"])],
        supports_check_mode=True,
    )
    params = module.params
    host = Host(Docker(), module.run_command)
    try:
        if params["state"] == "absent":
            outcome = absent(params["name"], host.docker, module.check_mode, params["purge"])
        else:
            outcome = prepare(_app(params), host, module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=f"{params['name']}: {exc}", exception=exc)
    module.exit_json(
        changed=outcome.changed,
        diff=outcome.diff,
        restart=outcome.restart,
        engine=outcome.engine,
        cdi=bool(outcome.engine) and has_cdi(outcome.engine),
        open_files=open_files(),
        uid=outcome.user[0],
        gid=outcome.user[1],
    )


def _app(params: dict) -> ContainerApp:
    return ContainerApp(
        name=params["name"],
        image=params["image"],
        home=Path(params["home"]),
        files=file_specs(params, params["name"]),
        inputs=tuple(Path(path) for path in params["inputs"]),
        ports=tuple(params["ports"]),
        units=(params["name"], *params["units"]),
        leftovers=tuple(Path(path) for path in params["leftovers"]),
    )


if __name__ == "__main__":
    main()
