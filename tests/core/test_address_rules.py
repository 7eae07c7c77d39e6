"""Addresses that a stranger must not have this server connect to, in every way of writing them."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.addresses import AddressRules

_RULES = AddressRules()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "192.168.0.1",
        "172.31.255.255",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "not an address",
        "127.1",
        "",
    ],
)
def test_address_that_is_not_public_is_denied(address: str) -> None:
    assert not _RULES.permit(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_address_is_permitted(address: str) -> None:
    assert _RULES.permit(address)


def test_allowed_network_counts_more_than_denied_ones() -> None:
    rules = AddressRules(denied=["0.0.0.0/0", "::/0"], allowed=["10.0.0.0/24"])
    assert rules.permit("10.0.0.7") and rules.permit("::ffff:10.0.0.7")
    assert not rules.permit("10.0.1.7") and not rules.permit("1.1.1.1") and not rules.permit("2606:4700::1111")


@given(st.integers(0, (1 << 32) - 1))
def test_address_in_ipv6_is_judged_as_the_ipv4_address(number: int) -> None:
    plain = ipaddress.IPv4Address(number)
    assert _RULES.permit(str(plain)) == _RULES.permit(f"::ffff:{plain}")
    if not _RULES.permit(str(plain)):
        assert not _RULES.permit(f"64:ff9b::{plain}")


def test_text_that_is_no_network_is_an_error() -> None:
    with pytest.raises(ValueError):
        AddressRules(denied=["10.0.0.0/33"])
