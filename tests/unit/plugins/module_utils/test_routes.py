# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._routes import litellm_routes, route_errors, serving


def endpoint(model: str, host: str, context: int | None, mode: str = "chat") -> dict[str, t.Any]:
    url = f"http://{host}:8081"
    return {"model": model, "host": host, "port": 8081, "engine": "llama_router", "mode": mode, "url": url, "max_input_tokens": context, "heard": True}


FLEET = [
    endpoint("small", "gpu1", 8192),
    endpoint("small", "gpu2", 4096),
    endpoint("coder", "gpu2", 65536),
    endpoint("chat", "gpu3", 16384),
    endpoint("embed", "gpu3", 512, "embedding"),
    endpoint("open", "gpu3", None),
]
AUTO: dict[str, t.Any] = {"models": [{"model": "small", "up_to": 4000}, {"model": "coder"}]}


def route(*models: t.Any, **more: t.Any) -> dict[str, t.Any]:
    return {"models": [{"model": one} if isinstance(one, str) else one for one in models], **more}


def limits(routes: dict[str, t.Any]) -> dict[str, tuple[int, int | None]]:
    """By the id of each entry its place in the route and the longest prompt."""
    found = litellm_routes(routes, FLEET)["models"]
    return {entry["model_info"]["id"]: (entry["litellm_params"]["order"], entry["model_info"].get("max_input_tokens")) for entry in found}


def test_an_entry_is_the_models_own_with_the_routes_name_place_and_length() -> None:
    first, *_rest = litellm_routes({"auto": {**AUTO, "timeout": 600, "retries": 0}}, FLEET, "key")["models"]
    assert first == {
        "model_name": "auto",
        "litellm_params": {
            "model": "openai/small",
            "api_base": "http://gpu1:8081/v1",
            "litellm_credential_name": "key",
            "order": 1,
            "timeout": 600,
            "num_retries": 0,
        },
        "model_info": {"id": "auto/small@gpu1:8081", "mode": "chat", "max_input_tokens": 4000},
    }


def test_every_deployment_takes_what_its_context_holds() -> None:
    assert limits({"auto": AUTO}) == {
        "auto/small@gpu1:8081": (1, 4000),
        "auto/small@gpu2:8081": (1, 4000),
        "auto/coder@gpu2:8081": (2, 65536),
    }


def test_without_up_to_a_quarter_of_the_context_is_for_the_answer_but_the_last_takes_all() -> None:
    assert limits({"auto": {"models": [{"model": "small"}, {"model": "chat"}, {"model": "open"}]}}) == {
        "auto/small@gpu1:8081": (1, 6144),
        "auto/small@gpu2:8081": (1, 3072),
        "auto/chat@gpu3:8081": (2, 12288),
        "auto/open@gpu3:8081": (3, None),
    }


def itself(*names: str) -> list[dict[str, t.Any]]:
    return [{name: [{"model": name, "num_retries": 0}]} for name in names]


def test_fallbacks_and_where_a_prompt_goes_that_an_engine_refuses() -> None:
    routes = {"auto": {**AUTO, "fallbacks": ["chat", "gone", "other"]}, "other": route("chat"), "lost": route("gone")}
    found = litellm_routes(routes, FLEET)
    assert found["router_settings"] == {
        "fallbacks": [{"auto": ["chat", "other"]}, *itself("chat", "coder", "open", "other", "small")],
        "context_window_fallbacks": [{"auto": ["coder", "chat", "other"]}],
    }
    assert {entry["model_name"] for entry in found["models"]} == {"auto", "other"}


def test_without_routes_there_is_nothing_to_say() -> None:
    settings = {"fallbacks": itself("chat", "coder", "open", "small"), "context_window_fallbacks": []}
    assert litellm_routes({}, FLEET) == {"models": [], "router_settings": settings}
    assert route_errors({}, FLEET) == []


def test_a_drained_host_gets_no_new_requests() -> None:
    hostvars: dict[str, dict[str, t.Any]] = {"gpu1": {}, "gpu2": {"llm_drain": True}, "gpu3": {"llm_drain": False}}
    left = serving(FLEET, hostvars)
    assert [one["model"] for one in left] == ["small", "chat", "embed", "open"]
    found = litellm_routes({"auto": {**AUTO, "fallbacks": ["coder", "chat"]}}, left)
    assert [entry["model_info"]["id"] for entry in found["models"]] == ["auto/small@gpu1:8081"]
    assert found["router_settings"]["fallbacks"] == [{"auto": ["chat"]}, *itself("chat", "open", "small")]


def test_a_route_that_wants_one_attempt_is_not_its_own_fallback() -> None:
    found = litellm_routes({"once": {**route("coder"), "retries": 0}}, FLEET)
    assert found["router_settings"]["fallbacks"] == itself("chat", "coder", "open", "small")


def test_drain_is_true_or_false() -> None:
    with pytest.raises(InputError, match=r"llm_drain of gpu1 is 'yes': it must be true or false"):
        serving(FLEET[:1], {"gpu1": {"llm_drain": "yes"}})


def test_a_server_that_cannot_be_reached_keeps_nobody_from_the_others() -> None:
    silent = {**endpoint("open", "gpu3", None), "heard": False}
    found = litellm_routes({"auto": route("open", "coder")}, [silent, endpoint("open", "gpu4", 8192), endpoint("coder", "gpu1", 32768)])
    assert [entry["model_info"]["id"] for entry in found["models"]] == ["auto/open@gpu4:8081", "auto/coder@gpu1:8081"]


def test_a_context_that_nobody_knows_is_no_limit_that_could_be_written() -> None:
    with pytest.raises(InputError, match="nobody has said how long a prompt open takes on gpu3"):
        litellm_routes({"auto": {"models": [{"model": "open"}, {"model": "coder"}]}}, FLEET)


@pytest.mark.parametrize(
    ("routes", "says"),
    [
        (["auto"], "llm_routes is ['auto']: it must be a mapping"),
        ({"Auto": AUTO}, "llm_routes: 'Auto' is no name for a route"),
        ({"chat": AUTO}, "llm_routes.chat has the name of a model"),
        ({"auto": None}, "llm_routes.auto is None: it needs models"),
        ({"auto": {"models": []}}, "llm_routes.auto is {'models': []}: it needs models"),
        ({"auto": {**AUTO, "fallback": ["chat"]}}, "llm_routes.auto.fallback is not an option: there is: fallbacks, models, retries, timeout."),
        ({"auto": {"models": ["small"]}}, "llm_routes.auto.models has 'small': an entry has a model"),
        ({"auto": route({"model": "small", "upto": 1})}, "llm_routes.auto.models has {'model': 'small', 'upto': 1}: an entry has a model"),
        ({"auto": route({"model": "small", "up_to": "4k"})}, "up_to of small is '4k': it must be a number of tokens"),
        ({"auto": {**AUTO, "fallbacks": "chat"}}, "llm_routes.auto.fallbacks is 'chat': it must be a list"),
        ({"auto": {**AUTO, "timeout": 0}}, "llm_routes.auto.timeout is 0: it must be a number of seconds"),
        ({"auto": {**AUTO, "retries": True}}, "llm_routes.auto.retries is True: it must be a whole number"),
        ({"auto": route("smal", "coder")}, "llm_routes.auto.models has smal, which no host serves: place it in an llm_serve"),
        ({"auto": route("small", "embed")}, "llm_routes.auto.models has embed, which is no chat model but for embedding"),
        ({"auto": route("small", "small")}, "llm_routes.auto.models has small 2 times"),
        ({"auto": {**AUTO, "fallbacks": ["nobody"]}}, "llm_routes.auto.fallbacks has nobody, which is no route and which no host serves"),
        ({"auto": {**AUTO, "fallbacks": ["coder"]}}, "llm_routes.auto.fallbacks has coder, which is one of its models already"),
        ({"auto": route("coder", "small")}, "small takes prompts of up to 8192 tokens, not more than coder before it, so it would get none"),
        ({"auto": route({"model": "small", "up_to": 9000}, "coder")}, "up_to of small is 9000, but its context has only 8192 tokens"),
        ({"auto": route("open", "coder")}, "nobody has said how long a prompt open takes on gpu3"),
        (
            {"a": {**AUTO, "fallbacks": ["b"]}, "b": {**AUTO, "fallbacks": ["c"]}, "c": {**AUTO, "fallbacks": ["b"]}},
            "llm_routes: the fallbacks go in a circle, b -> c -> b: take one of them out.",
        ),
        ({"a": {**AUTO, "fallbacks": ["a"]}}, "llm_routes: the fallbacks go in a circle, a -> a: take one of them out."),
    ],
)
def test_one_mistake_is_one_sentence(routes: t.Any, says: str) -> None:
    (error,) = route_errors(routes, FLEET)
    assert says in error


def test_before_the_plan_a_context_may_be_left_to_the_ledger() -> None:
    assert route_errors({"auto": route("open", "coder")}, FLEET, planned=False) == []


def test_a_sound_route_has_no_error() -> None:
    routes = {"auto": {**AUTO, "fallbacks": ["chat", "other"], "timeout": 60, "retries": 0}, "other": route({"model": "open", "up_to": 100}, "chat")}
    assert route_errors(routes, FLEET) == []
