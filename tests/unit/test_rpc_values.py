"""Batches, notifications, and errors on their way there and back."""

import uuid

import pytest

from pgbus.database.statements.rpc import CallOutcome, Request, Response
from pgbus.errors import CallTimeout, InvalidArguments, InvalidResult, RemoteError, WorkerLost
from pgbus.rpc import wire as values
from pgbus.rpc.wire import (
    failure,
    is_small,
    join_ids,
    join_names,
    join_results,
    split_results,
    take_batch,
    to_error,
)

CALL_ID = uuid.UUID(int=7)


def request(size: int = 2) -> Request:
    return Request(uuid.uuid4(), "a.b", "x" * size, 1.0)


def test_a_batch_ends_at_its_number_of_calls() -> None:
    waiting = [request() for _ in range(values.BATCH_CALLS + 3)]
    everything = list(waiting)
    first, second = take_batch(waiting), take_batch(waiting)
    assert (len(first), len(second)) == (values.BATCH_CALLS, 3)
    assert first + second == everything
    assert waiting == []


def test_a_batch_ends_at_its_size_but_holds_at_least_one() -> None:
    waiting = [request(values.BATCH_SIZE + 1), request(), request(values.BATCH_SIZE)]
    assert [len(take_batch(waiting)) for _ in range(3)] == [1, 1, 1]


def test_notifications_are_short_enough_for_postgresql() -> None:
    ids = [uuid.uuid4() for _ in range(values.NOTIFIED_CALLS + 1)]
    payloads = list(join_ids(ids))
    assert [uuid.UUID(text) for payload in payloads for text in payload.split(",")] == ids
    assert max(map(len, payloads)) < 7_950
    assert join_names(["a.b", "a.c", "a.b"]) == "a.b,a.c"
    assert join_names(f"{number:0250}" for number in range(40)) == ""


def test_results_are_split_as_they_were_joined() -> None:
    responses = [Response(uuid.uuid4(), "answered", result=text) for text in ("1", '{"a": [1.50, "é"]}', "null")]
    [(payload, call_ids)] = join_results(responses)
    assert call_ids == [response.call_id for response in responses]
    assert split_results(payload) == {response.call_id: response.result for response in responses}


def test_results_fill_as_many_notifications_as_they_need() -> None:
    responses = [Response(uuid.uuid4(), "answered", result=f'"{"é" * (n % 900)}"') for n in range(2_000)]
    assert all(map(is_small, responses))
    parts = list(join_results(responses))
    assert [call_id for _, call_ids in parts for call_id in call_ids] == [response.call_id for response in responses]
    assert max(len(payload.encode()) for payload, _ in parts) * 4 / 3 < 8_000
    assert max(len(call_ids) for _, call_ids in parts) <= values.NOTIFIED_CALLS


def test_a_long_result_and_a_failure_travel_in_no_notification() -> None:
    assert not is_small(Response(CALL_ID, "answered", result="1" * 2_001))
    assert not is_small(Response(CALL_ID, "answered", result="é" * 1_001))
    assert not is_small(Response(CALL_ID, "failed", error="why"))


@pytest.mark.parametrize("payload", ["{", "{}", '{"x": 1}', '{"a": }', "[]", "{" * 3_000, f'{{"{CALL_ID}": 1, }}'])
def test_what_is_no_notification_of_results_has_none(payload: str) -> None:
    assert split_results(payload) == {}


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("expired", CallTimeout),
        ("lost", WorkerLost),
        ("refused", InvalidArguments),
        ("invalid", InvalidResult),
        ("failed", RemoteError),
    ],
)
def test_an_outcome_is_an_error_of_its_own(outcome: CallOutcome, kind: type[Exception]) -> None:
    error = to_error(Response(CALL_ID, outcome, error="why"), procedure="a.b", allowed={})
    assert type(error) is kind
    assert "why" in str(error)
    assert getattr(error, "procedure", None) == "a.b"


class Picky(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


def test_an_allowed_error_that_cannot_be_made_again_stays_a_remote_error() -> None:
    response = failure(CALL_ID, Picky(code=3))
    error = to_error(response, procedure="a.b", allowed={f"{__name__}.Picky": Picky})
    assert isinstance(error, RemoteError)
    assert error.remote_type == f"{__name__}.Picky"


def test_only_an_allowed_class_is_raised_as_itself() -> None:
    response = failure(CALL_ID, KeyError("a"))
    assert type(to_error(response, procedure="a.b", allowed={})) is RemoteError
    original = to_error(response, procedure="a.b", allowed={"builtins.KeyError": KeyError})
    assert type(original) is KeyError
    assert original.args == ("a",)
