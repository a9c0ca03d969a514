# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._images import CPU, CUDA_12, CUDA_13, reference, variant

DIGEST = f"sha256:{'0' * 64}"
IMAGES: dict[str, t.Any] = {
    "version": "b1",
    CPU: {"name": "ghcr.io/x/y", "tag": "server", "digest": DIGEST},
    CUDA_13: {"name": "ghcr.io/x/y", "tag": "cuda", "digest": ""},
}


@pytest.mark.parametrize(
    ("gpu", "driver", "generations", "wanted"),
    [
        (False, "580.95.05", ["ada"], CPU),
        (True, "580.95.05", ["ada", "blackwell"], CUDA_13),
        (True, "575.1", ["ada"], CUDA_12),
        (True, "580.95.05", ["pascal"], CUDA_12),  # CUDA 13 has no code for it
        (True, "580.95.05", ["ada", "volta"], CUDA_12),
        (True, "", [], CUDA_13),  # the driver comes in this run
    ],
)
def test_the_variant_follows_driver_and_gpus(gpu: bool, driver: str, generations: list[str], wanted: str) -> None:
    assert variant(gpu, driver, generations) == wanted


@pytest.mark.parametrize(
    ("own", "registry", "wanted"),
    [
        ("", "", f"ghcr.io/x/y@{DIGEST}"),
        ("", "lan:5000/", f"lan:5000/ghcr.io/x/y@{DIGEST}"),
        (f"me/mine@{DIGEST}", "", f"me/mine@{DIGEST}"),
        (f"me/mine@{DIGEST}", "lan:5000", f"lan:5000/me/mine@{DIGEST}"),
        (DIGEST, "lan:5000", DIGEST),  # an id is no name: it is on the host or nowhere
    ],
)
def test_an_image_is_known_by_its_content(own: str, registry: str, wanted: str) -> None:
    assert reference(IMAGES, CPU, own, "llama_router_image", registry) == wanted


@pytest.mark.parametrize("own", ["me/mine:latest", "me/mine", "sha256:12", f"me/mine:1@{DIGEST}0", "--privileged", f"a b@{DIGEST}"])
def test_what_may_change_is_refused(own: str) -> None:
    with pytest.raises(InputError, match=r"^llama_router_image is '.*name@sha256"):
        reference(IMAGES, CPU, own, "llama_router_image", "")


def test_an_unknown_digest_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"digest of ghcr.io/x/y:cuda yet.* Set llama_router_image to ghcr.io/x/y@sha256:<digest>"):
        reference(IMAGES, CUDA_13, "", "llama_router_image", "")


def test_what_upstream_does_not_have_is_said() -> None:
    with pytest.raises(InputError, match=r"no image for cuda12 \(it has: cpu, cuda13\): set llama_router_image"):
        reference(IMAGES, CUDA_12, "", "llama_router_image", "")
