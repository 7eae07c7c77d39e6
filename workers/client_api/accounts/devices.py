"""Device management. Spec: client-server API, "Device Management"."""

from typing import Any

import msgspec

from shared.core.errors import bad_json, invalid_param, not_found
from shared.http.endpoint import RateLimit
from shared.http.request import Request, Response, convert, empty_response, json_response
from shared.http.serving import endpoint
from shared.storage.accounts.devices import Device, get_device, list_devices
from shared.storage.engine.pool import Database
from workers.client_api.accounts.interactive_auth import InteractiveAuth
from workers.client_api.accounts.login import PASSWORD, VerifiedPassword, wrong_password
from workers.client_api.accounts.passwords import PasswordDemand
from workers.client_api.accounts.sessions import MAX_DEVICE_NAME_CHARS, Sessions

_MAX_DEVICES = 1000  # in one deletion request


class DeviceBody(msgspec.Struct):
    display_name: str | None = None


class DeleteDevicesBody(msgspec.Struct):
    devices: list[str]


class Devices:
    def __init__(self, database: Database, sessions: Sessions, auth: InteractiveAuth, demand: PasswordDemand) -> None:
        self._database = database
        self._sessions = sessions
        self._auth = auth
        self._demand = demand

    @endpoint(
        name="list_devices",
        method="GET",
        path="/_matrix/client/{version}/devices",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3devices",
    )
    async def list_devices(self, request: Request) -> Response:
        """GET /devices."""
        devices = await list_devices(self._database, request.user.user_id)
        return json_response({"devices": [_to_json(device) for device in devices]})

    @endpoint(
        name="get_device",
        method="GET",
        path="/_matrix/client/{version}/devices/{deviceId}",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3devicesdeviceid",
    )
    async def get_device(self, request: Request) -> Response:
        """GET /devices/{deviceId}. Raises M_NOT_FOUND."""
        device_id = request.params["deviceId"]
        device = None
        if "\x00" not in device_id:
            device = await get_device(self._database, request.user.user_id, device_id)
        if device is None:
            raise _no_such_device()
        return json_response(_to_json(device))

    @endpoint(
        name="set_device",
        method="PUT",
        path="/_matrix/client/{version}/devices/{deviceId}",
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#put_matrixclientv3devicesdeviceid",
    )
    async def set_device(self, request: Request) -> Response:
        """PUT /devices/{deviceId}: set the display name. Without one, nothing changes. Raises M_NOT_FOUND."""
        device_id = request.params["deviceId"]
        name = request.decode(DeviceBody).display_name
        if name is not None and len(name) > MAX_DEVICE_NAME_CHARS:
            raise invalid_param(f"display_name must have at most {MAX_DEVICE_NAME_CHARS} characters")
        user_id = request.user.user_id
        if "\x00" in device_id:
            raise _no_such_device()
        found = (
            await self._sessions.rename_device(user_id, device_id, name)
            if name is not None
            else await get_device(self._database, user_id, device_id) is not None
        )
        if not found:
            raise _no_such_device()
        return empty_response()

    @endpoint(
        name="delete_device",
        method="DELETE",
        path="/_matrix/client/{version}/devices/{deviceId}",
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#delete_matrixclientv3devicesdeviceid",
    )
    async def delete_device(self, request: Request) -> Response:
        """DELETE /devices/{deviceId}, after user-interactive authentication. Unknown devices are no error."""
        body = request.json_object(empty_ok=True)
        return await self._delete(request, f"delete_device {request.params['deviceId']}", body)

    @endpoint(
        name="delete_devices",
        method="POST",
        path="/_matrix/client/{version}/delete_devices",
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#post_matrixclientv3delete_devices",
    )
    async def delete_devices(self, request: Request) -> Response:
        """POST /delete_devices, after user-interactive authentication. Unknown devices are no error."""
        body = request.json_object()
        convert(body, DeleteDevicesBody)
        return await self._delete(request, "delete_devices", body)

    async def _delete(self, request: Request, operation: str, body: dict[str, Any]) -> Response:
        passed = await self._auth.check(self._demand.of(request, operation), body)
        if operation == "delete_devices":
            devices = convert(passed.request, DeleteDevicesBody).devices
        else:
            devices = [request.params["deviceId"]]
        if len(devices) > _MAX_DEVICES:
            raise bad_json(f"devices must name at most {_MAX_DEVICES} devices")
        known = {device_id for device_id in devices if "\x00" not in device_id}
        verified_hash = VerifiedPassword.read(passed.results[PASSWORD]).password_hash
        if not await self._sessions.end_devices(request.user.user_id, sorted(known), verified_hash=verified_hash):
            raise wrong_password()
        await self._auth.end(passed)
        return empty_response()


def _to_json(device: Device) -> dict[str, Any]:
    # Deployed clients fail without the optional keys, so they are null if unknown.
    return {
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_ts": device.last_seen_ms,
    }


def _no_such_device() -> Exception:
    return not_found("You have no such device")
