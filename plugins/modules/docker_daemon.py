#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_docker_daemon``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_daemon
short_description: Keys of ours in Docker's daemon.json, among the user's
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Merges keys into C(/etc/docker/daemon.json) and lets the engine run with them. Keys that are not named stay as they are.
  - What is ours is kept in C(/var/lib/llm/docker/daemon.json), with what the user had there. A key that is no longer wanted, and with
    O(state=absent) all of ours, go back to what the user had. What the user has changed since stays.
  - The engine is restarted only if it does not run with the file as it then is, whoever wrote that and whenever; an interrupted run is
    therefore mended by the next one. If a reload is enough, as for C(runtimes), it is reloaded.
  - B(A restart stops all containers) unless C(live-restore) is on; those with a restart policy come back. Turning C(live-restore) on needs only a
    reload, so do that in a call of its own first.
  - From Docker 23 on C(dockerd --validate) judges the new file before it replaces the old one. An engine that does not start with the new
    file gets its old one back.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  diff_mode:
    details: Shows the keys that differ. Of C(proxies) it says only that they do.
options:
  state:
    description: V(absent) takes all keys of ours out again; O(settings) are then not looked at. The engine stays.
    type: str
    choices: [present, absent]
    default: present
  settings:
    description:
      - The keys, as in daemon.json. Groups of keys are merged.
      - Entries of a list are added to the user's. One such as C(native.cgroupdriver=systemd) takes the place of the user's entries of the same name.
      - They are shown in logs and differences. A proxy with a password belongs into a drop-in of C(docker.service).
    type: dict
    default: {}
  timeout:
    description: Seconds that the engine has to answer after a start, restart or reload.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Containers get GPUs through CDI
  baremetal.llm.docker_daemon:
    settings:
      features: {cdi: true}
      log-driver: local
"""

RETURN = r"""
action:
  description: What the engine needed, V(start), V(restart) or V(reload), or would in check mode; else empty.
  returned: success
  type: str
  sample: restart
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker
from ansible_collections.baremetal.llm.plugins.module_utils._docker_daemon import Host, apply
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "settings": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params = module.params
    host = Host(module.run_command, Docker(), params["timeout"])
    try:
        outcome = apply(params["settings"], params["state"] == "present", host, module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=outcome.changed, action=outcome.action, diff=outcome.diff)


if __name__ == "__main__":
    main()
