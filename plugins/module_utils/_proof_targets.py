# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What has to be proven: every deployment at its engine, and every name that clients may use at the front door."""

from __future__ import annotations

import typing as t
from collections.abc import Sequence

from ansible_collections.baremetal.llm.plugins.module_utils._routes import Routes, draining, serving, steps
from ansible_collections.baremetal.llm.plugins.module_utils._topology import HostVariables, Variables


def proof_targets(endpoints: Sequence[Variables], hostvars: HostVariables, routes: Routes) -> list[dict[str, t.Any]]:
    """As module ``fleet_probe`` takes them. Without a ``url`` it is a name at the front door.

    ``drained``: nothing of it gets new requests, so it is shown and not asked.
    """
    engines = [
        {
            "model": endpoint["model"],
            "mode": endpoint["mode"],
            "host": endpoint["host"],
            "url": endpoint["url"],
            "drained": draining(endpoint["host"], hostvars[endpoint["host"]]),
        }
        for endpoint in endpoints
    ]
    offered = {endpoint["model"] for endpoint in serving(endpoints, hostvars)}
    modes = {endpoint["model"]: endpoint["mode"] for endpoint in endpoints}
    names = [{"model": name, "mode": mode, "drained": name not in offered} for name, mode in modes.items()]
    ways = [{"model": name, "mode": "chat", "drained": not any(step.model in offered for step in steps(route))} for name, route in routes.items()]
    return [*engines, *names, *ways]
