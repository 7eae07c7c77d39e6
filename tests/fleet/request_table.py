"""A valid request for every declared endpoint, as the spec describes it. Tests derive hostile requests from them.

Placeholders in braces are replaced by names of existing objects: {me}, {other}, {room}, {event}, {alias}, {device},
{filter}. A new endpoint needs an entry here; `test_bad_input.py` fails without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Valid:
    """A valid request.

    params: decoded path parameters
    query: every parameter that the endpoint knows
    body: None if the endpoint reads no body
    required: keys that the body must have
    free: True if the body is any object (event content)
    empty_ok: True if the spec lets the body be absent
    destroys: the object that a successful request removes
    """

    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    required: tuple[str, ...] = ()
    free: bool = False
    empty_ok: bool = False
    destroys: str = ""


_ROOM = {"roomId": "{room}"}
_ME = {"userId": "{me}"}
_AUTH = {
    "type": "m.login.password",
    "identifier": {"type": "m.id.user", "user": "{me}"},
    "password": "{password}",
}
_EVENT_FILTER = '{"types":["m.*"],"not_senders":["@x:y"],"limit":5,"contains_url":false,"lazy_load_members":true}'
_FILTER = {
    "event_fields": ["type", "content.body"],
    "event_format": "client",
    "presence": {"types": []},
    "account_data": {"not_types": ["*"]},
    "room": {
        "rooms": ["{room}"],
        "not_rooms": [],
        "include_leave": True,
        "timeline": {"limit": 5, "types": ["m.*"], "unread_thread_notifications": True},
        "state": {"lazy_load_members": True, "include_redundant_members": False},
        "ephemeral": {"senders": ["{me}"]},
        "account_data": {"limit": 3},
    },
}
_CREATE_ROOM = {
    "visibility": "private",
    "name": "a room",
    "topic": "bees",
    "invite": [],
    "invite_3pid": [],
    "room_version": "11",
    "creation_content": {"m.federate": False},
    "initial_state": [{"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "can_join"}}],
    "preset": "private_chat",
    "is_direct": False,
    "power_level_content_override": {"events_default": 0, "users": {"{me}": 100}},
}
_TARGET = {"user_id": "@nobody:example.org", "reason": "because"}
_RULE = {"kind": "override", "ruleId": ".m.rule.master"}

_RELATIONS = {"dir": "b", "from": "p1-9", "to": "p1-1", "limit": "3", "recurse": "true"}

VALID: dict[str, Valid] = {
    "get_versions": Valid(),
    "get_well_known_client": Valid(),
    "get_well_known_server": Valid(),
    "get_well_known_support": Valid(),
    "get_capabilities": Valid(),
    "get_turn_server": Valid(),
    "list_third_party_protocols": Valid(),
    "register": Valid(
        query={"kind": "user"},
        body={
            "username": "taken",
            "password": "correct horse battery",
            "device_id": "DEVICE",
            "initial_device_display_name": "a phone",
            "inhibit_login": False,
            "refresh_token": True,
            "auth": {"type": "m.login.dummy", "session": "none"},
        },
    ),
    "get_username_availability": Valid(query={"username": "somebody"}),
    "get_registration_token_validity": Valid(query={"token": "token"}),
    "get_registration_nonce": Valid(),
    "register_with_shared_secret": Valid(
        body={
            "nonce": "nonce",
            "username": "somebody",
            "password": "correct horse battery",
            "mac": "00",
            "admin": False,
            "user_type": None,
            "displayname": "Somebody",
        },
        required=("nonce", "username", "password", "mac"),
    ),
    "get_login_flows": Valid(),
    "login": Valid(
        body={
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "nobody"},
            "user": "nobody",
            "medium": "email",
            "address": "nobody@example.org",
            "password": "wrong horse battery",
            "device_id": "DEVICE",
            "initial_device_display_name": "a phone",
            "refresh_token": True,
        },
        required=("type",),
    ),
    "refresh": Valid(body={"refresh_token": "none"}, required=("refresh_token",)),
    "logout": Valid(body={}, empty_ok=True, destroys="token"),
    "logout_all": Valid(body={}, empty_ok=True, destroys="token"),
    "get_whoami": Valid(),
    "change_password": Valid(
        body={"new_password": "another horse battery", "logout_devices": False, "auth": {**_AUTH, "session": "none"}}
    ),
    "deactivate_account": Valid(
        body={"id_server": "id.example.org", "erase": False, "auth": {**_AUTH, "session": "none"}},
        destroys="account",
    ),
    "list_devices": Valid(),
    "list_third_party_ids": Valid(),
    "get_key_backup_version": Valid(),
    "get_device": Valid({"deviceId": "{device}"}),
    "set_device": Valid({"deviceId": "{device}"}, body={"display_name": "a phone"}),
    "delete_device": Valid({"deviceId": "NONE"}, body={"auth": {**_AUTH, "session": "none"}}, empty_ok=True),
    "delete_devices": Valid(
        body={"devices": ["NONE"], "auth": {**_AUTH, "session": "none"}},
        required=("devices",),
    ),
    "get_profile": Valid(_ME),
    "get_profile_field": Valid({**_ME, "keyName": "displayname"}),
    "set_profile_field": Valid(
        {**_ME, "keyName": "displayname"}, body={"displayname": "Me"}, required=("displayname",)
    ),
    "delete_profile_field": Valid({**_ME, "keyName": "displayname"}),
    "create_filter": Valid(_ME, body=_FILTER),
    "get_filter": Valid({**_ME, "filterId": "{filter}"}),
    "get_account_data": Valid({**_ME, "type": "org.example.bees"}),
    "set_account_data": Valid({**_ME, "type": "org.example.bees"}, body={"hive": 1}, free=True),
    "get_room_account_data": Valid({**_ME, **_ROOM, "type": "org.example.bees"}),
    "set_room_account_data": Valid({**_ME, **_ROOM, "type": "org.example.bees"}, body={"hive": 1}, free=True),
    "list_tags": Valid({**_ME, **_ROOM}),
    "set_tag": Valid({**_ME, **_ROOM, "tag": "u.bees"}, body={"order": 0.25}, empty_ok=True),
    "delete_tag": Valid({**_ME, **_ROOM, "tag": "u.bees"}),
    "get_push_rules": Valid(),
    "get_global_push_rules": Valid(),
    "get_push_rules_of_kind": Valid({"kind": "override"}),
    "get_push_rule": Valid(_RULE),
    "get_push_rule_enabled": Valid(_RULE),
    "get_push_rule_actions": Valid(_RULE),
    "set_push_rule": Valid(
        {"kind": "content", "ruleId": "honey"},
        {"before": "honey", "after": "honey"},
        body={"actions": ["notify", {"set_tweak": "sound", "value": "buzz"}], "pattern": "honey*"},
        required=("actions", "pattern"),
    ),
    "delete_push_rule": Valid({"kind": "content", "ruleId": "honey"}),
    "set_push_rule_enabled": Valid(_RULE, body={"enabled": False}, required=("enabled",)),
    "set_push_rule_actions": Valid(_RULE, body={"actions": ["notify"]}, required=("actions",)),
    "send_receipt": Valid(
        {**_ROOM, "receiptType": "m.read", "eventId": "{event}"}, body={"thread_id": "main"}, empty_ok=True
    ),
    "set_read_markers": Valid(
        _ROOM, body={"m.fully_read": "{event}", "m.read": "{event}", "m.read.private": "{event}"}
    ),
    "get_events": Valid(query={"from": "s1_e1.0", "timeout": "0", "room_id": "{room}"}),
    "get_initial_sync": Valid(query={"limit": "2", "archived": "true"}),
    "get_room_initial_sync": Valid(_ROOM, query={"limit": "2"}),
    "search_users": Valid(body={"search_term": "bee", "limit": 3}, required=("search_term",)),
    "set_presence": Valid(_ME, body={"presence": "online", "status_msg": "in a meeting"}, required=("presence",)),
    "get_presence": Valid(_ME),
    "set_typing": Valid({**_ROOM, **_ME}, body={"typing": True, "timeout": 100}, required=("typing",)),
    "send_to_device": Valid(
        {"eventType": "m.room_key_request", "txnId": "three"},
        body={"messages": {"{me}": {"{device}": {"action": "request"}, "*": {}}}},
        required=("messages",),
    ),
    "upload_keys": Valid(
        body={
            "device_keys": {
                "user_id": "{me}",
                "device_id": "{device}",
                "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
                "keys": {"curve25519:{device}": "curve", "ed25519:{device}": "ed"},
                "signatures": {"{me}": {"ed25519:{device}": "signature"}},
            },
            "one_time_keys": {"signed_curve25519:AAAA": {"key": "one", "signatures": {"{me}": {"ed25519:D": "s"}}}},
            "fallback_keys": {"signed_curve25519:AAAB": {"key": "two", "fallback": True, "signatures": {}}},
        },
    ),
    "query_keys": Valid(body={"device_keys": {"{me}": [], "{other}": []}, "timeout": 10}, required=("device_keys",)),
    "claim_keys": Valid(
        body={"one_time_keys": {"{me}": {"{device}": "signed_curve25519"}}, "timeout": 10},
        required=("one_time_keys",),
    ),
    "get_key_changes": Valid(query={"from": "s1", "to": "s1"}),
    "list_joined_rooms": Valid(),
    "get_room_by_alias": Valid({"roomAlias": "{alias}"}),
    "set_room_alias": Valid({"roomAlias": "{alias}"}, body={"room_id": "{room}"}, required=("room_id",)),
    "delete_room_alias": Valid({"roomAlias": "{alias}"}),
    "list_room_aliases": Valid(_ROOM),
    "get_room_visibility": Valid(_ROOM),
    "set_room_visibility": Valid(_ROOM, body={"visibility": "private"}, empty_ok=True),
    "report_room": Valid(_ROOM, body={"reason": "spam"}, required=("reason",)),
    "report_event": Valid({**_ROOM, "eventId": "{event}"}, body={"reason": "spam"}, empty_ok=True),
    "report_user": Valid({"userId": "{other}"}, body={"reason": "spam"}, required=("reason",)),
    "list_mutual_rooms": Valid(query={"user_id": "{other}", "from": "m1-1"}),
    "create_room": Valid(body=_CREATE_ROOM),
    "send_event": Valid(
        {**_ROOM, "eventType": "m.room.message", "txnId": "one"}, body={"msgtype": "m.text", "body": "hum"}, free=True
    ),
    "send_event_without_transaction": Valid(
        {**_ROOM, "eventType": "m.room.message"}, body={"msgtype": "m.text", "body": "hum"}, free=True
    ),
    "schedule_delayed_event": Valid(
        {**_ROOM, "eventType": "m.room.message", "txnId": "later"},
        query={"org.matrix.msc4354.sticky_duration_ms": "1000"},
        body={"delay_ms": 3_600_000, "state_key": "", "content": {"body": "hum"}},
        required=("delay_ms", "content"),
    ),
    "list_delayed_events": Valid(),
    "get_delayed_event": Valid({"delayId": "none"}),
    "update_delayed_event": Valid({"delayId": "none", "action": "restart"}),
    "update_delayed_event_unstable": Valid({"delayId": "none", "action": "cancel"}),
    "update_delayed_event_by_body": Valid({"delayId": "none"}, body={"action": "send"}, required=("action",)),
    "set_thread_subscription": Valid(
        {**_ROOM, "threadRootId": "{event}"}, body={"automatic": "{event}"}, empty_ok=True
    ),
    "get_thread_subscription": Valid({**_ROOM, "threadRootId": "{event}"}),
    "delete_thread_subscription": Valid({**_ROOM, "threadRootId": "{event}"}),
    "list_thread_subscriptions": Valid(query={"dir": "b", "limit": "3", "from": "t1-9", "to": "s1"}),
    "redact_event": Valid({**_ROOM, "eventId": "{event}", "txnId": "two"}, body={"reason": "wrong"}, empty_ok=True),
    "set_state": Valid(
        {**_ROOM, "eventType": "org.example.state", "stateKey": "key"}, body={"hive": "seven"}, free=True
    ),
    "join_room": Valid(_ROOM, body={"reason": "bees"}, empty_ok=True),
    "join_room_by_id_or_alias": Valid(
        {"roomIdOrAlias": "{room}"},
        query={"via": "example.org", "server_name": "example.org"},
        body={
            "reason": "bees",
            "third_party_signed": {"sender": "{me}", "mxid": "{me}", "token": "t", "signatures": {}},
        },
        empty_ok=True,
    ),
    "knock_room": Valid(
        {"roomIdOrAlias": "{room}"}, query={"via": "example.org"}, body={"reason": "bees"}, empty_ok=True
    ),
    "leave_room": Valid(_ROOM, body={"reason": "bees"}, empty_ok=True, destroys="membership"),
    "forget_room": Valid(_ROOM, body={}, empty_ok=True),
    "invite_user": Valid(
        _ROOM,
        body={
            "user_id": "{other}",
            "reason": "bees",
            "id_server": "a.b",
            "id_access_token": "t",
            "medium": "email",
            "address": "a@b",
        },
    ),
    "kick_user": Valid(_ROOM, body=_TARGET, required=("user_id",)),
    "ban_user": Valid(_ROOM, body=_TARGET, required=("user_id",)),
    "unban_user": Valid(_ROOM, body=_TARGET, required=("user_id",)),
    "upgrade_room": Valid(
        _ROOM,
        body={"new_version": "12", "additional_creators": ["{other}"]},
        required=("new_version",),
        destroys="room",
    ),
    "get_sync": Valid(
        query={
            "filter": _EVENT_FILTER.replace("{", '{"room":{"timeline":{', 1).replace("}", "}}}", 1),
            "since": "",
            "timeout": "0",
            "full_state": "false",
            "set_presence": "online",
            "use_state_after": "true",
        },
    ),
    "sync_merged": Valid(
        body={
            "conn_id": "main",
            "pos": None,
            "timeout": 0,
            "set_presence": "online",
            "lists": {
                "list": {
                    "timeline_limit": 2,
                    "required_state": {
                        "include": [{"type": "m.room.create", "state_key": ""}],
                        "exclude": [{"type": "m.room.topic"}],
                        "lazy_members": True,
                    },
                    "range": [0, 9],
                    "filters": {"is_dm": False, "not_room_types": ["m.space"], "not_tags": ["m.lowpriority"]},
                }
            },
            "room_subscriptions": {"{room}": {"timeline_limit": 3, "required_state": {"include": [{}]}}},
            "extensions": {"typing": {"enabled": True, "lists": ["*"]}},
        },
    ),
    "sync_deployed": Valid(
        query={"timeout": "0", "set_presence": "online"},
        body={
            "conn_id": "main",
            "lists": {
                "list": {
                    "timeline_limit": 2,
                    "required_state": [["m.room.create", ""], ["m.room.member", "$LAZY"]],
                    "ranges": [[0, 9]],
                    "filters": {"is_invite": False, "room_name_like": "bee"},
                }
            },
            "room_subscriptions": {"{room}": {"timeline_limit": 3, "required_state": [["*", "*"]]}},
            "unsubscribe_rooms": ["{room}"],
            "extensions": {"to_device": {"enabled": True, "limit": 9}},
        },
        empty_ok=True,
    ),
    "get_room_messages": Valid(_ROOM, query={"dir": "b", "limit": "3", "from": "", "to": "", "filter": _EVENT_FILTER}),
    "get_event_context": Valid({**_ROOM, "eventId": "{event}"}, query={"limit": "3", "filter": _EVENT_FILTER}),
    "get_room_event": Valid({**_ROOM, "eventId": "{event}"}),
    "get_event_by_id": Valid({"eventId": "{event}"}),
    "get_room_state": Valid(_ROOM),
    "get_room_state_event": Valid({**_ROOM, "eventType": "m.room.create", "stateKey": ""}, query={"format": "event"}),
    "get_room_members": Valid(_ROOM, query={"at": "", "membership": "join", "not_membership": "ban"}),
    "get_joined_members": Valid(_ROOM),
    "get_event_by_timestamp": Valid(_ROOM, query={"ts": "1", "dir": "f"}),
    "get_relations": Valid({**_ROOM, "eventId": "{event}"}, query=_RELATIONS),
    "get_relations_by_type": Valid({**_ROOM, "eventId": "{event}", "relType": "m.thread"}, query=_RELATIONS),
    "get_relations_by_types": Valid(
        {**_ROOM, "eventId": "{event}", "relType": "m.thread", "eventType": "m.room.message"}, query=_RELATIONS
    ),
    "get_threads": Valid(_ROOM, query={"include": "all", "limit": "3", "from": "p1-9"}),
    "get_notifications": Valid(query={"limit": "3", "only": "highlight", "from": "n1-5"}),
    "search": Valid(
        query={"next_batch": "WzEsIiIsIiIsIngiXQ"},
        body={
            "search_categories": {
                "room_events": {
                    "search_term": "hum",
                    "keys": ["content.body"],
                    "filter": {"limit": 5, "types": ["m.*"], "rooms": ["{room}"]},
                    "order_by": "recent",
                    "event_context": {"before_limit": 1, "after_limit": 1, "include_profile": True},
                    "include_state": True,
                    "groupings": {"group_by": [{"key": "room_id"}]},
                }
            }
        },
        required=("search_categories",),
    ),
    "get_hierarchy": Valid(
        _ROOM, query={"suggested_only": "false", "limit": "3", "max_depth": "2", "from": "h1-1-0123456789abcdef"}
    ),
    "get_room_summary": Valid({"roomIdOrAlias": "{room}"}, query={"via": "example.org"}),
    "get_public_rooms": Valid(query={"limit": "3", "since": "d1-f-1-1", "server": "example.org"}),
    "query_public_rooms": Valid(
        query={"server": "example.org"},
        body={
            "limit": 3,
            "since": "d1-f-1-1",
            "filter": {"generic_search_term": "bees", "room_types": [None, "m.space"]},
            "include_all_networks": False,
            "third_party_instance_id": "irc",
        },
        empty_ok=True,
    ),
    "get_server_keys": Valid(),
    "get_server_version": Valid(),
    "query_keys_of_server": Valid(params={"serverName": "127.0.0.1:9"}, query={"minimum_valid_until_ts": "1"}),
    "query_keys_of_servers": Valid(body={"server_keys": {"127.0.0.1:9": {}}}, required=("server_keys",)),
    "query_profile": Valid(query={"user_id": "{me}", "field": "displayname"}),
    "query_room_alias": Valid(query={"room_alias": "{alias}"}),
}


#: Endpoints that query another server when the request names one of its users, rooms or aliases.
ASKS_OTHERS = frozenset(
    {
        "create_room",
        "get_profile",
        "get_profile_field",
        "get_room_by_alias",
        "invite_user",
        "join_room",
        "join_room_by_id_or_alias",
        "knock_room",
        "leave_room",
    }
)


def fill(value: Any, values: Mapping[str, str]) -> Any:
    """Return the value with every placeholder replaced, in keys too."""
    if isinstance(value, str):
        for name, text in values.items():
            value = value.replace("{" + name + "}", text)
        return value
    if isinstance(value, dict):
        return {fill(key, values): fill(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, values) for item in value]
    return value
