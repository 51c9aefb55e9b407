import pytest

from benchmarks import failover, restore, verify
from benchmarks import kafka as bench
from benchmarks.cluster import JobNames, job_runtime, make_input, make_job_topics
from benchmarks.floor import common as floor
from benchmarks.job import INPUT, Job
from engine.clock import system_clock

pytestmark = pytest.mark.slow


def test_floor_job_and_both_consent_paths_are_measured_and_their_answers_checked(kafka, capsys):
    bench.speed(kafka.bootstrap, events=2_000, rounds=1, consents=1_000)
    lines = capsys.readouterr().out.splitlines()
    for name in ("floor", "job", "consents, unsealed", "consents, sealed"):
        cost, ratio = next(line for line in lines if line.startswith(f"{name} "))[20:].split()[:2]
        assert float(cost) > 0 and float(ratio) > 0
    assert next(line for line in lines if line.startswith("floor"))[20:].split()[1] == "1.00"


def test_a_restore_is_measured_and_every_value_checked(kafka, capsys):
    restore.run(kafka.bootstrap, records=5_000, rounds=1)
    assert "restored" in capsys.readouterr().out


def test_a_failover_is_measured_and_every_answer_checked(kafka, capsys):
    failover.run(kafka.bootstrap, kills=1)
    assert "every decision and state right" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["a decision twice", "a state that lags", "an event not decided"])
def test_wrong_answers_are_found(kafka, tmp_path, fresh_prefix, monkeypatch, wrong):
    names = JobNames(fresh_prefix, fresh_prefix + INPUT)
    make_job_topics(kafka.bootstrap, names)
    make_input(kafka.bootstrap, names.input_topic, floor.gen(50))
    runtime = job_runtime(kafka.bootstrap, names, tmp_path, "w1")
    commit = runtime.commit

    def spoiled(turn):
        if wrong == "a decision twice":
            turn.outputs.append(turn.outputs[0])
        elif wrong == "a state that lags":
            next(iter(turn.writes.values())).popitem()
        else:
            turn.outputs.pop()
        commit(turn)

    monkeypatch.setattr(runtime, "commit", spoiled)
    worked = Job(runtime, system_clock)
    while worked.done < 50:
        worked.turn()
    runtime.close()
    with pytest.raises(verify.Wrong):
        verify.verify_job(kafka.bootstrap, names, 50)
