# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Routes: one name for clients, behind it several models, of which the first that takes the prompt answers. And servers that are drained.

A route is a model group of LiteLLM with all deployments of its models. Each says how long a prompt it takes (``max_input_tokens``, which LiteLLM
compares before it chooses) and its place in the route (``order``, of which LiteLLM takes the lowest that is left). So a short prompt goes to
the first model, a long one to the first that holds it, and whatever cannot be reached to the next.
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._topology import HostVariables, Variables, litellm_models

Routes = Mapping[str, Variables]
Endpoints = Sequence[Variables]

ROUTE_KEYS = frozenset({"models", "fallbacks", "timeout", "retries"})
STEP_KEYS = frozenset({"model", "up_to"})
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Step(t.NamedTuple):
    """A model of a route, and the longest prompt that it gets of it; 0 leaves that to its context."""

    model: str
    up_to: int
    last: bool

    def limit(self, context: int | None) -> int | None:
        """Tokens of the longest prompt. Without ``up_to`` a model that is not the last leaves a quarter of its context for the answer.

        That quarter is also what LiteLLM's count may be wrong by, which is made with another tokenizer than the model's.
        """
        if self.up_to:
            return min(self.up_to, context or self.up_to)
        return context if self.last or context is None else context * 3 // 4


def serving(endpoints: Endpoints, hostvars: HostVariables) -> list[Variables]:
    """The endpoints that get new requests: those of hosts that are not drained."""
    return [endpoint for endpoint in endpoints if not draining(endpoint["host"], hostvars[endpoint["host"]])]


def draining(host: str, variables: Variables) -> bool:
    value = variables.get("llm_drain", False)
    if not isinstance(value, bool):
        raise InputError(f"llm_drain of {host} is {value!r}: it must be true or false.")
    return value


def litellm_routes(routes: Routes, endpoints: Endpoints, credential: str = "engine") -> dict[str, t.Any]:
    """What LiteLLM has to know of the routes: more entries of ``model_list``, and more of ``router_settings``.

    A model that nobody serves at the moment is passed over, and a route without any is not offered.
    """
    served = {endpoint["model"] for endpoint in endpoints}
    offered = {name: route for name, route in routes.items() if any(step.model in served for step in steps(route))}
    known = served | set(offered)
    elsewhere = {name: [other for other in route.get("fallbacks") or [] if other in known] for name, route in offered.items()}
    longer = {
        name: [step.model for step in steps(route)[1:] if step.model in served] + elsewhere[name] for name, route in offered.items()
    }
    # LiteLLM's retries end with the status. An engine that sends one at once, as vLLM does, and dies before its first token would lose the request,
    # so whatever has no other fallback is its own. An entry with more than the name counts as another model.
    chats = {endpoint["model"] for endpoint in endpoints if endpoint["mode"] == "chat"}
    alone = sorted(chats | {name for name, route in offered.items() if not elsewhere[name] and route.get("retries") != 0})
    return {
        "models": [entry for name, route in offered.items() for entry in _entries(name, route, endpoints, credential)],
        "router_settings": {
            "fallbacks": [{name: others} for name, others in elsewhere.items() if others]
            + [{name: [{"model": name, "num_retries": 0}]} for name in alone],
            # For an engine that counts more tokens than LiteLLM did and refuses the prompt.
            "context_window_fallbacks": [{name: others} for name, others in longer.items() if others],
        },
    }


def steps(route: Variables) -> list[Step]:
    given = route["models"]
    return [Step(one["model"], one.get("up_to", 0), number == len(given)) for number, one in enumerate(given, 1)]


def _entries(name: str, route: Variables, endpoints: Endpoints, credential: str) -> Iterator[dict[str, t.Any]]:
    for place, step in enumerate(steps(route), 1):
        mine = [endpoint for endpoint in endpoints if endpoint["model"] == step.model]
        for endpoint, entry in zip(mine, litellm_models(mine, credential)):
            limit = step.limit(endpoint["max_input_tokens"])
            if limit is None and not step.last:
                if not endpoint["heard"]:
                    continue  # it cannot be reached, and joins the route with the run that reaches it
                raise InputError(_unknown_context(name, step.model, endpoint["host"]))
            extra = {"timeout": route.get("timeout"), "num_retries": route.get("retries")}
            yield {
                "model_name": name,
                "litellm_params": {
                    **entry["litellm_params"],
                    "order": place,
                    **{key: value for key, value in extra.items() if value is not None},
                },
                "model_info": {
                    **entry["model_info"],
                    "id": f"{name}/{entry['model_info']['id']}",
                    **({"max_input_tokens": limit} if limit else {}),
                },
            }


def route_errors(routes: t.Any, endpoints: Endpoints, planned: bool = True) -> list[str]:
    """What is wrong with ``llm_routes``, each a sentence. ``endpoints`` are those of drained hosts too.

    Before the ledger has ``planned``, a context that is left to it is no error.
    """
    if not isinstance(routes, Mapping):
        return [f"llm_routes is {routes!r}: it must be a mapping of names to routes, such as {{auto: {{models: [{{model: small}}]}}}}."]
    served = {endpoint["model"]: endpoint["mode"] for endpoint in endpoints}
    found: list[str] = []
    sound: dict[str, Variables] = {}
    for name, route in routes.items():
        wrong = [*_name_errors(name, served), *_shape_errors(name, route)] or list(_member_errors(name, route, routes, served))
        found += wrong
        if not wrong:
            sound[name] = route
    for name, route in sound.items():
        found += _length_errors(name, route, endpoints, planned)
    return found + list(_cycle_errors(sound))


def _name_errors(name: t.Any, served: t.Container[str]) -> Iterator[str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"llm_routes: {name!r} is no name for a route: use at most 63 lower-case letters, digits, '.', '_' and '-'."
    elif name in served:
        yield f"llm_routes.{name} has the name of a model: clients could not tell them apart, give the route another name."


def _shape_errors(name: t.Any, route: t.Any) -> Iterator[str]:
    where = f"llm_routes.{name}"
    if not isinstance(route, Mapping) or not isinstance(route.get("models"), list) or not route["models"]:
        yield f"{where} is {route!r}: it needs models, a list with at least one, such as [{{model: small, up_to: 4000}}, {{model: large}}]."
        return
    for key in sorted(set(route) - ROUTE_KEYS):
        yield f"{where}.{key} is not an option: there is: {', '.join(sorted(ROUTE_KEYS))}."
    for step in route["models"]:
        if not isinstance(step, Mapping) or not isinstance(step.get("model"), str) or set(step) - STEP_KEYS:
            yield f"{where}.models has {step!r}: an entry has a model and may have up_to, such as {{model: small, up_to: 4000}}."
        elif "up_to" in step and not _whole(step["up_to"], 1):
            yield f"{where}.models: up_to of {step['model']} is {step['up_to']!r}: it must be a number of tokens."
    fallbacks = route.get("fallbacks", [])
    if not isinstance(fallbacks, list) or not all(isinstance(other, str) for other in fallbacks):
        yield f"{where}.fallbacks is {fallbacks!r}: it must be a list of models or routes, such as [chat]."
    if "timeout" in route and not _whole(route["timeout"], 1):
        yield f"{where}.timeout is {route['timeout']!r}: it must be a number of seconds."
    if "retries" in route and not _whole(route["retries"], 0):
        yield f"{where}.retries is {route['retries']!r}: it must be a whole number."


def _member_errors(name: str, route: Variables, routes: t.Container[str], served: Mapping[str, str]) -> Iterator[str]:
    where, there = f"llm_routes.{name}", f"there is: {', '.join(sorted(served)) or 'nothing yet'}"
    names = [step.model for step in steps(route)]
    for model in dict.fromkeys(names):
        if model not in served:
            yield f"{where}.models has {model}, which no host serves: place it in an llm_serve, or take it out; {there}."
        elif served[model] != "chat":
            yield f"{where}.models has {model}, which is no chat model but for {served[model]}: a route leads to chat models."
        elif names.count(model) > 1:
            yield f"{where}.models has {model} {names.count(model)} times: a model has one place in a route."
    for other in route.get("fallbacks") or []:
        if other not in served and other not in routes:
            yield f"{where}.fallbacks has {other}, which is no route and which no host serves; {there}."
        elif other in names:
            yield f"{where}.fallbacks has {other}, which is one of its models already: take it out."


def _length_errors(name: str, route: Variables, endpoints: Endpoints, planned: bool) -> Iterator[str]:
    where, longest, before = f"llm_routes.{name}", 0, ""
    for step in steps(route):
        mine = [endpoint for endpoint in endpoints if endpoint["model"] == step.model]
        contexts = {endpoint["host"]: endpoint["max_input_tokens"] for endpoint in mine}
        unknown = [host for host, context in contexts.items() if context is None]
        known = [context for context in contexts.values() if context is not None]
        if planned and unknown and not step.up_to and not step.last:
            yield _unknown_context(name, step.model, unknown[0])
        if known and step.up_to > max(known):
            yield (
                f"{where}.models: up_to of {step.model} is {step.up_to}, but its context has only {max(known)} tokens: lower it, or raise the context."
            )
            continue
        limits = [limit for limit in (step.limit(context) for context in contexts.values()) if limit is not None]
        if not limits or unknown:
            continue
        if max(limits) <= longest:
            yield (
                f"{where}.models: {step.model} takes prompts of up to {max(limits)} tokens, not more than {before} before it, so it would get none:"
                " order the models by what they take, or name it in fallbacks."
            )
        longest, before = max(limits), step.model


def _unknown_context(name: str, model: str, host: str) -> str:
    return (
        f"llm_routes.{name}: nobody has said how long a prompt {model} takes on {host}: give it a context in llm_models, or an up_to in the route."
    )


def _cycle_errors(routes: Routes) -> Iterator[str]:
    """Each circle once, from its first route on."""
    seen: set[frozenset[str]] = set()

    def walk(path: list[str]) -> Iterator[list[str]]:
        for other in routes[path[-1]].get("fallbacks") or []:
            if other in path:
                yield [*path[path.index(other) :], other]
            elif other in routes:
                yield from walk([*path, other])

    for name in routes:
        for circle in walk([name]):
            if frozenset(circle) not in seen:
                seen.add(frozenset(circle))
                yield f"llm_routes: the fallbacks go in a circle, {' -> '.join(circle)}: take one of them out."


def _whole(value: t.Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
