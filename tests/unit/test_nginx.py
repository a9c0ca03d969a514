# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The front door's configuration for the Nginx of every distribution that the role names. Molecule runs those of Debian 12 and 13."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[2] / "roles/nginx"
VERSIONS = {"1.18.0": "Ubuntu 22.04", "1.22.1": "Debian 12", "1.24.0": "Ubuntu 24.04", "1.26.3": "Debian 13", "1.30.1": "what comes next"}
# The first version with a directive that is younger than 1.18, and the first without one, as nginx.org documents them.
SINCE = {
    "http2": (1, 25, 1),
    "keepalive_min_timeout": (1, 27, 4),
    "keepalive_time": (1, 19, 10),
    "proxy_cookie_flags": (1, 19, 3),
    "proxy_pass_trailers": (1, 27, 2),
    "ssl_conf_command": (1, 19, 4),
    "ssl_reject_handshake": (1, 19, 4),
}
UNTIL = {"http2_idle_timeout": (1, 19, 7), "http2_max_field_size": (1, 19, 7), "http2_max_header_size": (1, 19, 7), "http2_recv_timeout": (1, 19, 7)}

init_plugin_loader()


def configuration(version: str, **inputs: t.Any) -> str:
    loader = DataLoader()
    variables: dict[str, t.Any] = {"inventory_hostname": "gateway", "inventory_dir": "/tmp", "__nginx_found": {"stderr": f"nginx version: nginx/{version}"}}
    for path in ("defaults/main.yml", "vars/main.yml"):
        variables |= loader.load_from_file(str(ROLE / path), trusted_as_template=True)
    asked = trust_as_template(f"{{{{ lookup('ansible.builtin.template', '{ROLE}/templates/nginx.conf.j2') }}}}")
    return str(Templar(loader=loader, variables=variables | inputs).template(asked))


def directives(text: str) -> list[str]:
    """The lines that begin with a directive, without a comment."""
    return [line.strip() for line in text.splitlines() if re.match(r"\s*[a-z0-9_]+ ", line)]


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("inputs", [{}, {"nginx_admin_names": ["admin.example.org"], "nginx_admin_sources": ["10.0.0.0/8"], "nginx_unlisted_keys": True}])
def test_no_directive_that_this_nginx_does_not_know(version: str, inputs: dict[str, t.Any]) -> None:
    found = {line.split()[0] for line in directives(configuration(version, **inputs))}
    assert {"listen", "auth_request", "proxy_pass"} <= found
    assert {name for name in found if name in SINCE and number(version) < SINCE[name]} == set()
    assert {name for name in found if name in UNTIL and number(version) >= UNTIL[name]} == set()


@pytest.mark.parametrize("version", VERSIONS)
def test_http2_is_on_everywhere(version: str) -> None:
    lines = directives(configuration(version, nginx_admin_names=["admin.example.org"], nginx_admin_sources=["10.0.0.0/8"]))
    listening = [line for line in lines if line.startswith("listen ")]
    assert len(listening) == 4
    words = [line.removesuffix(";").split() for line in listening]
    assert all("ssl" in line for line in words)
    if number(version) < (1, 25, 1):  # in every line, as the first one of an address decides for all
        assert all("http2" in line for line in words)
    else:
        assert "http2 on;" in lines
        assert not any("http2" in line for line in words)


def test_the_oldest_has_the_limits_of_http2_that_the_others_share_with_http1() -> None:
    old = directives(configuration("1.18.0", nginx_header_timeout=7))
    assert {"http2_recv_timeout 7s;", "http2_max_field_size 8k;", "http2_max_header_size 32k;"} <= set(old)


@pytest.mark.parametrize(("version", "says_so"), [("1.18.0", False), ("1.22.1", True)])
def test_the_log_before_the_configuration_is_read(version: str, says_so: bool) -> None:
    loader = DataLoader()
    variables = loader.load_from_file(str(ROLE / "vars/main.yml"), trusted_as_template=True) | {"__nginx_found": {"stderr": f"nginx version: nginx/{version}"}}
    assert ("-e" in Templar(loader=loader, variables=variables).template(variables["__nginx_command"])) is says_so
