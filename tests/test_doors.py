"""Every public callable says one sentence, with the argument's name, to whatever is outside of its domain.

`make test-doors` runs the whole product of callables, arguments and wrong values; the suite a fixed sample.
"""

import collections
import os
import random

import pytest

import doors

SAMPLE = 3000
FOUND, MISSING = doors.doors()


@pytest.fixture(autouse=True)
def _as_a_user_sees_it(unchecked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def faults_of(cases, **options):
    faults, right = [], {}
    for case in cases:
        if case.door.name not in right:
            right[case.door.name] = doors.call_of(case.door)
        if fault := doors.fault_of(case, right[case.door.name], **options):
            faults.append(f"{case.door.name}({case.argument} = {case.value}) {fault}")
    return faults


def told(faults):
    """The faults by door, a few of each."""
    by_door = collections.defaultdict(list)
    for fault in faults:
        by_door[fault.split(" = ")[0]].append(fault)
    shown = [fault for group in by_door.values() for fault in group[: int(os.environ.get("FLATMIN_FAULTS", "3"))]]
    return f"{len(faults)} faults at {len(by_door)} arguments:\n" + "\n".join(shown)


def test_every_public_callable_declares_what_it_accepts():
    assert len(FOUND) > 250
    assert not MISSING, f"declare the domains of these with @checked, or say in door_calls.py why not: {MISSING}"


def test_wrong_values_meet_a_sentence_sampled():
    cases = doors.cases(FOUND)
    faults = faults_of(random.Random(12).sample(cases, SAMPLE), outside_only=True)
    assert not faults, told(faults)


@pytest.mark.long
@pytest.mark.parametrize("door", FOUND, ids=[door.name for door in FOUND])
def test_wrong_values_meet_a_sentence(door):
    cases = doors.cases([door])
    assert len(cases) >= 200
    faults = faults_of(cases)
    assert not faults, told(faults)


@pytest.mark.long
@pytest.mark.parametrize("door", FOUND, ids=[door.name for door in FOUND])
def test_a_valid_call_passes(door):
    if door.name in doors.door_calls.ELSEWHERE:
        pytest.skip(f"computes for long: tests/{doors.door_calls.ELSEWHERE[door.name]} calls it")
    doors.run(door, doors.call_of(door))
