"""The configuration: all problems in one round, secrets kept secret, samples and documents current."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from shared.config.addresses import database_dsn, database_dsn_without_password
from shared.config.generate import development_yaml, production_sample, write_secrets
from shared.config.hosts import host_and_port
from shared.config.kinds import Secret
from shared.config.load import load_config, read_config
from shared.config.problems import ConfigurationError
from shared.config.reading import keys_of
from shared.config.remarks import remarks
from shared.config.schema import documentation, field_texts, json_schema, record_in
from shared.config.sections import REMOVED_KEYS, Config, Database, Fleet, RateLimits
from shared.config.writing import effective_yaml
from shared.http.endpoint import RateLimit

ROOT = Path(__file__).parents[2]
KEY = "ed25519 a_1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
SMALLEST = f"""
server_name: example.org
public_base_url: https://example.org
signing: {{key: "{KEY}"}}
secrets: {{internal_secret: "0123456789abcdef0123456789abcdef"}}
"""


def read(text: str, directory: Path = Path("/nowhere"), **environment: str) -> Config:
    return read_config(text, directory / "skep.yaml", environment)


def problems_of(text: str) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    return {problem.key: str(problem) for problem in caught.value.problems}


def test_the_smallest_file_has_safe_defaults() -> None:
    config = read(SMALLEST)
    assert not config.registration.enabled and config.registration.require_token
    assert all(getattr(config.rate_limits, name) is not None for name in keys_of(RateLimits))
    assert config.listeners.client.host == "127.0.0.1"


def test_all_problems_are_told_together() -> None:
    found = problems_of("""
server_name: "not a name"
public_base_url: ftp://x
signing: {key: nonsense}
secrets: {internal_secret_file: /does/not/exist}
registration: {enbled: true}
database: {port: "abc", hosts: [1], tls: perhaps}
listeners: {federation: {certificate_file: /does/not/exist.pem}}
rate_limits: {message: {per_second: 0, burst: 1}, join: null}
fleet: {main: 0, synchrotron: true}
logging: []
""")
    assert sorted(found) == [
        "database.hosts[0]",
        "database.port",
        "database.tls",
        "fleet.main",
        "fleet.synchrotron",
        "listeners.federation.certificate_file",
        "logging",
        "public_base_url",
        "rate_limits.message.per_second",
        "registration.enbled",
        "secrets.internal_secret_file",
        "server_name",
        "signing.key",
    ]
    assert 'did you mean "enabled"?' in found["registration.enbled"]
    assert "an integer from 1 to 65535" in found["database.port"] and '"abc"' in found["database.port"]
    assert "No such file" in found["secrets.internal_secret_file"]


def test_required_keys_are_named_with_the_ways_to_give_them() -> None:
    found = problems_of("{}")
    assert sorted(found) == ["public_base_url", "secrets.internal_secret", "server_name", "signing.key"]
    assert "SKEP_SIGNING_KEY" in found["signing.key"]


@pytest.mark.parametrize(
    ("addition", "key"),
    [
        ("server_name: example.com", "the file"),
        ("database: [", "the file"),
        ("replication: {heartbeat_s: 2, dead_after_s: 3}", "replication.dead_after_s"),
        ("redis: {url: 'http://x'}", "redis.url"),
        ("database: {hosts: ['a:99999']}", "database.hosts[0]"),
        ("database: {dsn: 'postgresql://h/d', hosts: [h]}", "database.dsn"),
        ("redis: {url: 'redis://h', host: h}", "redis.url"),
        ("redis: {url: 'redis://h:port'}", "redis.url"),
        ("redis: {host: h, ca_file: /etc/hostname}", "redis.ca_file"),
        ("redis: {sentinel: {hosts: ['a b']}}", "redis.sentinel.hosts[0]"),
        ("redis: {channel_prefix: 'a*'}", "redis.channel_prefix"),
        ("haproxy: {runtime_sockets: [nonsense]}", "haproxy.runtime_sockets[0]"),
        ("haproxy: {trusted_proxies: [proxy.example.org]}", "haproxy.trusted_proxies[0]"),
        ("haproxy: {trusted_proxies: [10.0.0.1/8]}", "haproxy.trusted_proxies[0]"),
        ("haproxy: {proxy_protocol: true}", "haproxy.trusted_proxies"),
        ("listeners: {client: {host: not an address}}", "listeners.client.host"),
        ("listeners: {client: {port: 8448}}", "listeners.federation.port"),
        ("workers: {listen_host: not an address}", "workers.listen_host"),
        ("workers: {listen_host: 10.0.0.300}", "workers.listen_host"),
        ("workers: {listen_host: 0.0.0.0}", "workers.advertise_host"),
        ("workers: {drain_limit_s: .inf}", "workers.drain_limit_s"),
        ("accounts: {refresh_token_lifetime_s: 1000000000000000}", "accounts.refresh_token_lifetime_s"),
        ("support: {contacts: [{matrix_id: bob}]}", "support.contacts[0].matrix_id"),
        ("federation: {denied_ip_ranges: [10.0.0.1/8]}", "federation.denied_ip_ranges[0]"),
        ('haproxy: {program: "a\\0b"}', "haproxy.program"),
        ("database: {hosts: [/run/a, b]}", "database.hosts"),
        ("database: {dsn: 'host=x'}", "database.dsn"),
        ("support: {contacts: [{role: m.role.admin}]}", "support.contacts[0]"),
        (
            "listeners: {federation: {private_key_file: /etc/hostname}}",
            "listeners.federation.certificate_file",
        ),
        ("database: {password: x, password_file: y}", "database.password"),
        ("rooms: {default_version: '13'}", "rooms.default_version"),
    ],
)
def test_contradictions(addition: str, key: str) -> None:
    assert key in problems_of(SMALLEST + addition)


def test_a_bad_signing_key_is_found_without_being_shown() -> None:
    found = problems_of(SMALLEST.replace(KEY, "ed25519 a_1 c2hvcnQ"))
    assert "a seed of 5 bytes in line 1" in found["signing.key"] and "c2hvcnQ" not in found["signing.key"]


def test_secrets_come_from_files_and_the_environment_and_hide(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("from a file\n")
    text = SMALLEST + "database: {password_file: pw}"
    assert read(text, tmp_path).database.password == Secret("from a file")
    config = read(text, tmp_path, SKEP_DATABASE_PASSWORD="from outside")
    assert config.database.password == Secret("from outside")
    for shown in (repr(config), str(config.database), f"{config.database.password}"):
        assert "from outside" not in shown


def test_relations_and_contents_are_checked_in_the_same_round() -> None:
    """One wrong type hides none of the other problems: short secrets, URL schemes, keys that exclude each other."""
    found = problems_of(f"""
server_name: 5
server_name: 5
public_base_url: https://example.org
signing: {{key: "ed25519 a_1 c2hvcnQ", validity_s: day}}
secrets: {{internal_secret: short}}
database: {{dsn: "postgresql://h/d", hosts: [h], connections: many}}
redis: {{url: "http://x", tls: maybe}}
replication: {{heartbeat_s: 2, dead_after_s: 3, tick_s: x}}
listeners: {{federation: {{private_key_file: {__file__}, port: x}}}}
support: {{contacts: [{{}}], support_page: x}}
""")
    assert sorted(found) == [
        "database.connections",
        "database.dsn",
        "listeners.federation.certificate_file",
        "listeners.federation.port",
        "redis.tls",
        "redis.url",
        "replication.dead_after_s",
        "replication.tick_s",
        "secrets.internal_secret",
        "server_name",
        "signing.key",
        "signing.validity_s",
        "support.contacts[0]",
        "support.support_page",
        "the file",
    ]
    assert "also hosts" in found["database.dsn"] and "line 3" in found["the file"]


def test_missing_trusted_proxy_is_remarked(tmp_path: Path) -> None:
    """haproxy speaks plain HTTP to clients, so a server at an https URL has a proxy in front of it."""
    [remark] = remarks(read(SMALLEST, tmp_path))
    assert "haproxy.trusted_proxies" in remark
    assert list(remarks(read(SMALLEST + "haproxy: {trusted_proxies: [10.0.0.0/8, 2001:db8::1]}", tmp_path))) == []
    assert list(remarks(read(SMALLEST.replace("https:", "http:"), tmp_path))) == []


def test_relation_is_not_checked_between_faulty_settings() -> None:
    assert list(problems_of(SMALLEST + "replication: {heartbeat_s: abc, dead_after_s: 0.2}")) == [
        "replication.heartbeat_s"
    ]


def test_secrets_from_files_and_environment_are_checked_and_their_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("tooshort")
    text = SMALLEST.replace('internal_secret: "0123456789abcdef0123456789abcdef"', "internal_secret_file: short")
    with pytest.raises(ConfigurationError) as caught:
        read(text, tmp_path, SKEP_DATABASE_DSN="mysql://u:hidden@h/d")
    found = {problem.key: problem.found for problem in caught.value.problems}
    assert found == {
        "secrets.internal_secret_file": "fewer in short",
        "database.dsn": "a text that does not begin so in $SKEP_DATABASE_DSN",
    }


def test_redis_url_may_stand_beside_a_password() -> None:
    redis = read(SMALLEST + "redis: {url: 'redis://h', username: u, password: p}").redis
    assert (redis.host, redis.username, redis.password) == ("h", "u", Secret("p"))
    assert "redis.url" in problems_of(SMALLEST + "redis: {url: 'redis://u:q@h', password: p}")


def test_removed_key_is_named_with_what_to_do() -> None:
    assert "remove it" in problems_of(SMALLEST + "media: {store_path: media}")["media"]
    assert not set(REMOVED_KEYS) & {f"{section}.{key}" for section, key in every_key()}


def test_a_wrong_secret_is_never_part_of_the_message() -> None:
    assert "hunter2" not in problems_of(SMALLEST + "database: {password: [hunter2]}")["database.password"]


def test_redis_url_is_taken_apart() -> None:
    redis = read(SMALLEST + "redis: {url: 'rediss://u:p%40ss@cache.example:7000/0'}").redis
    assert (redis.host, redis.port, redis.username, redis.tls) == ("cache.example", 7000, "u", True)
    assert redis.password == Secret("p@ss") and redis.url is None


@pytest.mark.parametrize(
    ("database", "dsn"),
    [
        (Database(hosts=("db1", "db2:5433")), "postgresql://skep@db1:5432,db2:5433/skep?sslmode=prefer"),
        (Database(hosts=("::1",)), None),
        (Database(hosts=("/run/a b",)), "postgresql://skep@/skep?host=%2Frun%2Fa%20b&port=5432"),
        (
            Database(hosts=("h",), password=Secret("p@/:"), user="u", name="n", tls="require"),
            "postgresql://u:p%40%2F%3A@h:5432/n?sslmode=require",
        ),
    ],
)
def test_database_dsn(database: Database, dsn: str | None) -> None:
    if dsn is None:
        with pytest.raises(ValueError, match=r"host|port"):
            database_dsn(database)
        return
    assert database_dsn(database) == dsn
    assert "p%40" not in database_dsn_without_password(database)


def test_dsn_without_password_knows_both_places() -> None:
    database = Database(dsn=Secret("postgresql://u:hidden@h1:1,h2:2/n?password=hidden&a=b"))
    assert database_dsn_without_password(database) == "postgresql://u@h1:1,h2:2/n?a=b"


def test_host_and_port() -> None:
    assert host_and_port("a", 5) == ("a", 5)
    assert host_and_port("[::1]:7", 5) == ("::1", 7)


def test_each_rate_limit_class_has_a_setting() -> None:
    classes = {each.value for each in RateLimit} - {"none"}
    assert set(keys_of(RateLimits)) == classes | {"unknown_token"}


def every_key() -> set[tuple[str, str]]:
    sections = {name: record for name, hint in keys_of(Config).items() if (record := record_in(hint))}
    return {(name, key) for name, record in sections.items() for key in keys_of(record)}


def every_record(record: type = Config) -> set[type[Any]]:
    inner = {found for hint in keys_of(record).values() if (found := record_in(hint))}
    return {record}.union(*(every_record(each) for each in inner))


@pytest.mark.parametrize("record", sorted(every_record(), key=str))
def test_every_key_is_described(record: type) -> None:
    texts = field_texts(record)
    bare = [name for name, hint in keys_of(record).items() if not texts[name] and record_in(hint) is None]
    assert bare == []


def test_the_schema_accepts_what_the_loader_accepts(tmp_path: Path) -> None:
    schema = json.loads(json.dumps(json_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    for text in (SMALLEST, production_sample(), development_yaml(8008, 8448)):
        jsonschema.validate(yaml.safe_load(text), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(SMALLEST + "databse: {}"), schema)


def test_samples_load_and_mean_what_they_say(tmp_path: Path) -> None:
    write_secrets(tmp_path)
    (tmp_path / "secrets" / "database_password").write_text("pw")
    (tmp_path / "skep.yaml").write_text(production_sample())
    production = load_config(tmp_path / "skep.yaml", {})
    assert not production.registration.enabled
    assert production.rate_limits == RateLimits()
    (tmp_path / "skep.yaml").write_text(development_yaml(8108, 8548))
    development = load_config(tmp_path / "skep.yaml", {})
    assert development.registration.enabled and not development.registration.require_token
    assert all(getattr(development.rate_limits, name) is None for name in keys_of(RateLimits))
    assert development.listeners.client.host == development.listeners.federation.host == "127.0.0.1"
    assert (tmp_path / "secrets" / "signing_key").stat().st_mode & 0o077 == 0
    assert write_secrets(tmp_path) == []


def test_a_sample_with_every_setting_switched_on_still_loads(tmp_path: Path) -> None:
    write_secrets(tmp_path)
    # dsn and url are given in place of the other parts.
    text = re.sub(r"(?m)^( *)#(?=[a-z])(?!dsn_file|url_file)", r"\1", production_sample())
    assert text != production_sample()
    for name in re.findall(r"secrets/(\w+)", text):
        if not (tmp_path / "secrets" / name).exists():
            (tmp_path / "secrets" / name).write_text("secret")
    config = read(text, tmp_path)
    assert config.rate_limits == RateLimits() and config.fleet == Fleet()


def test_the_effective_file_loads_as_the_same_configuration(tmp_path: Path) -> None:
    config = read(SMALLEST + "redis: {url: 'redis://:pw@127.0.0.1:7000'}\ntracing: {sample_rate: 1}", tmp_path)
    again = read(effective_yaml(config), Path("/elsewhere"))
    assert again == config


@pytest.mark.parametrize(
    ("path", "text"),
    [("docs/configuration.md", documentation()), ("deploy/config/skep.sample.yaml", production_sample())],
)
def test_generated_files_are_current(path: str, text: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == text, "run `make docs` and commit the result"
