"""Push rules, so far the spec's own, read only. Spec: client-server API, "Push Rules: API"."""

from typing import Any

from shared.core.errors import not_found
from shared.core.push_rules import ALL_OFF, NO_CHANGES, full_ruleset
from shared.http.request import Request, Response, json_response


class PushRules:
    async def get_push_rules(self, request: Request) -> Response:
        """GET /pushrules/."""
        return json_response(full_ruleset(NO_CHANGES, request.user.user_id, ALL_OFF))

    async def get_global_push_rules(self, request: Request) -> Response:
        """GET /pushrules/global/."""
        return json_response(full_ruleset(NO_CHANGES, request.user.user_id, ALL_OFF)["global"])

    async def get_push_rule(self, request: Request) -> Response:
        """GET /pushrules/global/{kind}/{ruleId}. Raises M_NOT_FOUND."""
        return json_response(_rule(request))

    async def get_push_rule_enabled(self, request: Request) -> Response:
        """GET /pushrules/global/{kind}/{ruleId}/enabled. Raises M_NOT_FOUND."""
        return json_response({"enabled": _rule(request)["enabled"]})

    async def get_push_rule_actions(self, request: Request) -> Response:
        """GET /pushrules/global/{kind}/{ruleId}/actions. Raises M_NOT_FOUND."""
        return json_response({"actions": _rule(request)["actions"]})


def _rule(request: Request) -> dict[str, Any]:
    rules = full_ruleset(NO_CHANGES, request.user.user_id, ALL_OFF)["global"].get(request.params["kind"], [])
    for rule in rules:
        if rule["rule_id"] == request.params["ruleId"]:
            found: dict[str, Any] = rule
            return found
    raise not_found("There is no such push rule")
