"""Puts a client_api worker together. Reads from top to bottom; nothing else constructs its objects."""

from replication.worker_process import Foundation, Worker
from shared.operations.passwords import PasswordHasher
from workers.client_api.interactive_auth import InteractiveAuth
from workers.client_api.login import Login, PasswordCheck
from workers.client_api.profiles import Profiles
from workers.client_api.rate_limit_owner import RateLimitOwner
from workers.client_api.registration import Registration
from workers.client_api.server_facts import ServerFacts
from workers.client_api.sessions import Sessions
from workers.client_api.shared_secret import SharedSecretRegistration


def compose(foundation: Foundation) -> Worker:
    config, database, clock = foundation.config, foundation.database, foundation.clock
    server_name = config.server_name
    hasher = PasswordHasher(config.accounts.password_hash_threads, config.accounts.password_minimum_length)
    auth = InteractiveAuth(database, clock, config.accounts.interactive_session_lifetime_s)
    sessions = Sessions(
        database, foundation.writer, foundation.announcer, foundation.authenticator, clock, config.accounts
    )
    passwords = PasswordCheck(server_name, database, hasher, config.rate_limits.login)

    facts = ServerFacts(config)
    registration = Registration(server_name, config.registration, database, hasher, auth, sessions, clock)
    secret = config.secrets.registration_shared_secret
    by_secret = SharedSecretRegistration(
        server_name, secret.reveal() if secret is not None else None, database, hasher, sessions, clock
    )
    login = Login(server_name, config.public_base_url.rstrip("/"), passwords, sessions)
    profiles = Profiles(server_name, database, _NoRooms())
    limits = RateLimitOwner(foundation.rate_limiter)

    handlers = {
        "get_versions": facts.get_versions,
        "get_well_known_client": facts.get_well_known_client,
        "get_well_known_server": facts.get_well_known_server,
        "get_well_known_support": facts.get_well_known_support,
        "get_capabilities": facts.get_capabilities,
        "get_turn_server": facts.get_turn_server,
        "list_third_party_protocols": facts.list_third_party_protocols,
        "register": registration.register,
        "get_username_availability": registration.get_username_availability,
        "get_registration_token_validity": registration.get_registration_token_validity,
        "get_registration_nonce": by_secret.get_nonce,
        "register_with_shared_secret": by_secret.register,
        "get_login_flows": login.get_login_flows,
        "login": login.login,
        "refresh": login.refresh,
        "logout": login.logout,
        "logout_all": login.logout_all,
        "get_whoami": login.get_whoami,
        "get_profile": profiles.get_profile,
        "get_profile_field": profiles.get_profile_field,
        "set_profile_field": profiles.set_profile_field,
        "delete_profile_field": profiles.delete_profile_field,
        "take_rate_limit": limits.take_rate_limit,
    }

    async def drain() -> None:
        await foundation.authenticator.store_last_seen()
        hasher.close()

    return Worker(handlers=handlers, drain=drain)


class _NoRooms:
    async def profile_changed(self, user_id: str) -> None:
        return None
