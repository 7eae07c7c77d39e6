"""An invite to an e-mail address, accepted with the signature of an identity server.

Spec: client-server API, "Third-party invites"; POST /rooms/{roomId}/join, `third_party_signed`.
"""

from typing import Any

from shared.core.canonical_json import encode_canonical, encode_unpadded
from shared.core.signing import SigningKey, generate_signing_key
from tests.fix_servers import TestDatabase
from tests.rigs.persister import event_persister


def _signed(key: SigningKey, mxid: str, token: str) -> dict[str, Any]:
    body = {"mxid": mxid, "token": token}
    signature = encode_unpadded(key.sign(encode_canonical(body)))
    return {**body, "sender": "@alice:example.org", "signatures": {"id.example.org": {key.key_id: signature}}}


async def test_join_with_signed_third_party_invite(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        key = generate_signing_key(b"i" * 32, "0")
        room_id = await alice.create_room(room_version="10")
        invite = {
            "display_name": "b...@example.org",
            "public_key": key.verify_key_base64,
            "key_validity_url": "https://id.example.org/valid",
        }
        assert (await alice.put_state(room_id, "m.room.third_party_invite", invite, "tok")).status == 200
        for wrong in (
            _signed(generate_signing_key(b"x" * 32, "0"), bob.user_id, "tok"),
            _signed(key, alice.user_id, "tok"),
            _signed(key, bob.user_id, "other"),
        ):
            answer = await bob.act(room_id, "join", {"third_party_signed": wrong})
            assert answer.errcode == "M_FORBIDDEN", answer.body
        malformed = await bob.act(room_id, "join", {"third_party_signed": {"mxid": 3}})
        assert malformed.errcode == "M_BAD_JSON"
        assert await persister.content(room_id, "m.room.member", bob.user_id) is None

        async with event_persister(postgres_module.dsn) as second:  # without the invite in memory
            signed = {"third_party_signed": _signed(key, bob.user_id, "tok")}
            assert (await second.user("bob").act(room_id, "join", signed)).status == 200
        types = [(row["type"], row["sender"]) for row in await persister.timeline(room_id)][-2:]
        assert types == [("m.room.member", alice.user_id), ("m.room.member", bob.user_id)]
