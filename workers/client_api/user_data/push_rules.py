"""The API of push rules. Spec: client-server API, "Push Rules: API"."""

from collections.abc import Callable

from shared.core.push_rules import RuleChanges
from shared.core.push_rules.changes import rules_of_kind
from shared.core.push_rules.editing import delete_rule, find_rule, put_rule, set_actions, set_enabled
from shared.core.push_rules.validation import check_kind, check_new_id, read_actions, read_enabled, read_rule
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Response, empty_response, json_response
from shared.http.serving import endpoint
from workers.client_api.user_data.push_rules_writer import PushRulesWriter


class PushRules:
    def __init__(self, rules: PushRulesWriter) -> None:
        self._rules = rules
        self._switches = rules.switches

    @endpoint(
        name="get_push_rules",
        method="GET",
        path="/_matrix/client/{version}/pushrules/",
        aliases=("/_matrix/client/{version}/pushrules",),
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3pushrules",
    )
    async def get_push_rules(self, request: Request) -> Response:
        """GET /pushrules/."""
        return json_response(await self._rules.get_ruleset(request.user.user_id))

    @endpoint(
        name="get_global_push_rules",
        method="GET",
        path="/_matrix/client/{version}/pushrules/global/",
        aliases=("/_matrix/client/{version}/pushrules/global",),
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3pushrulesglobal",
    )
    async def get_global_push_rules(self, request: Request) -> Response:
        """GET /pushrules/global/."""
        return json_response((await self._rules.get_ruleset(request.user.user_id))["global"])

    @endpoint(
        name="get_push_rules_of_kind",
        method="GET",
        path="/_matrix/client/{version}/pushrules/global/{kind}/",
        aliases=("/_matrix/client/{version}/pushrules/global/{kind}",),
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="deployed: the path of one kind, which the specification no longer has",
    )
    async def get_push_rules_of_kind(self, request: Request) -> Response:
        """GET /pushrules/global/{kind}/, which the specification had once. Raises M_INVALID_PARAM."""
        kind, user_id = check_kind(request.params["kind"], self._switches), request.user.user_id
        return json_response(rules_of_kind(await self._rules.get(user_id), kind, user_id, self._switches))

    @endpoint(
        name="get_push_rule",
        method="GET",
        path="/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}",
        aliases=("/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/",),
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3pushrulesglobalkindruleid",
    )
    async def get_push_rule(self, request: Request) -> Response:
        """GET /pushrules/global/{kind}/{ruleId}. Raises M_NOT_FOUND."""
        changes, user_id = await self._rules.get(request.user.user_id), request.user.user_id
        return json_response(find_rule(changes, *_rule_of(request), user_id, self._switches))

    @endpoint(
        name="get_push_rule_enabled",
        method="GET",
        path="/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/enabled",
        aliases=("/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/enabled/",),
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3pushrulesglobalkindruleidenabled",
    )
    async def get_push_rule_enabled(self, request: Request) -> Response:
        """GET /pushrules/global/{kind}/{ruleId}/enabled. Raises M_NOT_FOUND."""
        changes, user_id = await self._rules.get(request.user.user_id), request.user.user_id
        return json_response({"enabled": find_rule(changes, *_rule_of(request), user_id, self._switches)["enabled"]})

    @endpoint(
        name="get_push_rule_actions",
        method="GET",
        path="/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/actions",
        aliases=("/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/actions/",),
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3pushrulesglobalkindruleidactions",
    )
    async def get_push_rule_actions(self, request: Request) -> Response:
        """GET /pushrules/global/{kind}/{ruleId}/actions. Raises M_NOT_FOUND."""
        changes, user_id = await self._rules.get(request.user.user_id), request.user.user_id
        return json_response({"actions": find_rule(changes, *_rule_of(request), user_id, self._switches)["actions"]})

    @endpoint(
        name="set_push_rule",
        method="PUT",
        path="/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}",
        aliases=("/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/",),
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#put_matrixclientv3pushrulesglobalkindruleid",
    )
    async def set_push_rule(self, request: Request) -> Response:
        """PUT /pushrules/global/{kind}/{ruleId}. Raises M_INVALID_PARAM, M_MISSING_PARAM, M_UNKNOWN."""
        kind, rule_id = _rule_of(request)
        check_kind(kind, self._switches)
        rule = read_rule(kind, check_new_id(rule_id), request.json_object())
        before, after = request.query_text("before"), request.query_text("after")
        return await self._change(request, lambda changes: put_rule(changes, kind, rule, before, after))

    @endpoint(
        name="delete_push_rule",
        method="DELETE",
        path="/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}",
        aliases=("/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/",),
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#delete_matrixclientv3pushrulesglobalkindruleid",
    )
    async def delete_push_rule(self, request: Request) -> Response:
        """DELETE /pushrules/global/{kind}/{ruleId}. Raises M_NOT_FOUND, also for default rules."""
        kind, rule_id = _rule_of(request)
        return await self._change(request, lambda changes: delete_rule(changes, kind, rule_id))

    @endpoint(
        name="set_push_rule_enabled",
        method="PUT",
        path="/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/enabled",
        aliases=("/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/enabled/",),
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#put_matrixclientv3pushrulesglobalkindruleidenabled",
    )
    async def set_push_rule_enabled(self, request: Request) -> Response:
        """PUT /pushrules/global/{kind}/{ruleId}/enabled. Raises M_NOT_FOUND, M_INVALID_PARAM, M_MISSING_PARAM."""
        rule, enabled = _rule_of(request), read_enabled(request.json_object())
        return await self._change(request, lambda changes: set_enabled(changes, *rule, enabled, self._switches))

    @endpoint(
        name="set_push_rule_actions",
        method="PUT",
        path="/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/actions",
        aliases=("/_matrix/client/{version}/pushrules/global/{kind}/{ruleId}/actions/",),
        pool="client",
        routing_key=RoutingKey.TOKEN_USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#put_matrixclientv3pushrulesglobalkindruleidactions",
    )
    async def set_push_rule_actions(self, request: Request) -> Response:
        """PUT /pushrules/global/{kind}/{ruleId}/actions. Raises M_NOT_FOUND, M_INVALID_PARAM, M_MISSING_PARAM."""
        rule, actions = _rule_of(request), read_actions(request.json_object())
        return await self._change(request, lambda changes: set_actions(changes, *rule, actions, self._switches))

    async def _change(self, request: Request, edit: Callable[[RuleChanges], RuleChanges]) -> Response:
        await self._rules.change(request.user.user_id, edit)
        return empty_response()


def _rule_of(request: Request) -> tuple[str, str]:
    """Return the kind and the id of the rule that the path names."""
    return request.params["kind"], request.params["ruleId"]
