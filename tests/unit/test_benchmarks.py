import msgspec
import pytest

from benchmarks import job, kafka
from benchmarks.consents import envelopes
from benchmarks.floor import common as floor
from benchmarks.unsealed import UnsealedSecrets
from engine.filering import FileRing
from engine.memory import MemoryRuntime
from engine.runtime import Output
from engine.secrets import Secrets

EVENTS = 500


def events():
    return list(floor.gen(EVENTS))


def test_the_job_reads_the_floors_events_as_fastavro_does():
    for _, event in events():
        found = job.decode_event(floor.enc(floor.EVENT, event), 0)
        wanted = {name: event[name] for name in job.Event.__struct_fields__}
        assert msgspec.structs.asdict(found) | {"kind": job.KINDS[found.kind]} == wanted


def test_the_job_writes_decisions_byte_for_byte_as_fastavro_does():
    for _, event in events():
        for decision in ("ALLOW", "DENY"):
            out = job.Out(event["event_id"], event["subject_id"], decision, event["ts"])
            assert job.encode_out(out) == floor.enc(floor.OUT, msgspec.structs.asdict(out))


class Polled(MemoryRuntime):
    def wait(self, timeout_secs):
        pass


def test_the_job_decides_and_keeps_what_the_floor_does(monkeypatch):
    monkeypatch.setattr(job, "TURN_SECS", 0.0)
    runtime = Polled(job.TOPICS, job.TASKS)
    runtime.append([Output(job.INPUT, s.encode(), floor.enc(floor.EVENT, e)) for s, e in events()], 1)
    worked = job.Job(runtime, lambda: 1)
    while worked.done < EVENTS:
        worked.turn()
    states, wanted = {}, {}
    for subject, event in events():
        states[subject], wanted[event["event_id"]] = floor.step(event, states.get(subject, floor.NEW))
    outputs = [r for n in range(job.PARTITIONS) for r in runtime.read(job.OUTPUT, n, 0, EVENTS)]
    assert len(outputs) == EVENTS
    assert {o["event_id"]: o for o in (floor.dec(floor.OUT, r.value) for r in outputs)} == wanted
    kept = {k.decode(): job.unpack_state(v) for n in range(job.PARTITIONS) for k, v in runtime.scan(job.TASK, n, b"")}
    assert {subject: msgspec.structs.asdict(state) for subject, state in kept.items()} == states


@pytest.mark.parametrize(("secrets", "plain"), [(UnsealedSecrets, True), (Secrets, False)])
def test_only_the_unsealed_run_leaves_records_in_plain_text(secrets, plain, tmp_path):
    ring = FileRing(tmp_path / "ring", create=True)
    made = secrets(ring, bytes)
    envelope = next(envelopes(1, made, 1))
    token = made.sealing("consents", 1)(envelope.data)
    assert (token == envelope.data) is plain
    assert made.opening("consents")(token) == envelope.data
    ring.close()


def test_a_bound_is_held_against_the_floor_of_the_same_round(capsys):
    def runs(*costs):
        return [{"cpu_us": cost, "rate": 1e6 / cost} for cost in costs]

    found = {"floor": runs(10, 30, 10), "job": runs(3, 12, 3), "consents, unsealed": runs(7, 7, 7)}
    assert not kafka.table(found)
    lines = capsys.readouterr().out.splitlines()
    assert "0.30  ≤ 0.35 ok" in next(line for line in lines if line.startswith("job"))
    assert "0.70  ≤ 0.6 MISSED" in next(line for line in lines if line.startswith("consents"))
    assert kafka.table({name: found[name] for name in ("floor", "job")})
