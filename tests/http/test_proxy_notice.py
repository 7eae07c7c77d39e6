"""The log of proxies that are not trusted."""

import logging

import pytest

from shared.http.admission.proxy_notice import ProxyNotice


def test_unknown_proxy_is_logged_once_with_advice(caplog: pytest.LogCaptureFixture) -> None:
    notice = ProxyNotice()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            notice.note("192.0.2.1")
            notice.note("2001:db8::1")
            notice.note("2001:db8::2")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "192.0.2.1" in caplog.text and "2001:db8::/64" in caplog.text
    assert "haproxy.trusted_proxies" in caplog.text


def test_clients_cannot_fill_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    notice, now_s = ProxyNotice(), 1000.0
    monkeypatch.setattr("shared.http.admission.proxy_notice.time.monotonic", lambda: now_s)
    with caplog.at_level(logging.WARNING):
        for number in range(200):
            notice.note(f"192.0.2.{number}")
        logged = len(caplog.records)
        assert 0 < logged <= 20
        now_s += 3600
        notice.note("198.51.100.1")
        assert len(caplog.records) == logged + 1
