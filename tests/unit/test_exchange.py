"""Tokens by which a copied device key is noticed."""

from __future__ import annotations

from typing import Any

from penguindome_server import exchange


def after(*steps: tuple[str, str | None]) -> dict[str, Any]:
    state: dict[str, Any] | None = None
    for token, report_id in steps:
        if report_id is None:
            state = exchange.after_enrolment(state, token=token, address="a")
        else:
            state = exchange.after_report(state, token=token, report_id=report_id, address="a")
    assert state is not None
    return state


def test_the_newest_token_is_right() -> None:
    assert not exchange.is_stale(after(("t0", None), ("t1", "r1")), "t1")


def test_the_token_before_it_is_stale_for_another_report() -> None:
    assert exchange.is_stale(after(("t0", None), ("t1", "r1")), "t0")


def test_no_token_and_nonsense_are_stale() -> None:
    state = after(("t0", None))
    assert exchange.is_stale(state, None)
    assert exchange.is_stale(state, "")
    assert exchange.is_stale(state, "\ud800")


def test_an_answer_to_enroll_that_was_lost_does_no_harm() -> None:
    state = after(("t0", None), ("t1", "r1"), ("t2", None))
    assert not exchange.is_stale(state, "t1")
    assert not exchange.is_stale(state, "t2")
    assert exchange.is_stale(state, "t0")


def test_after_a_restore_any_token_is_right_once() -> None:
    state = {**after(("t0", None), ("t1", "r1")), "resynchronise": True}
    assert not exchange.is_stale(state, "from-the-future")
    state = exchange.after_report(state, token="t9", report_id="r9", address="a")
    assert exchange.is_stale(state, "from-the-future")


def test_tokens_differ_and_cannot_be_guessed() -> None:
    tokens = {exchange.new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(len(token) == 24 for token in tokens)


def test_a_client_without_any_exchange_is_not_a_clone() -> None:
    assert not exchange.is_stale(None, None)
