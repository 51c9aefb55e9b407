"""One worker of the simulated cluster: a name that lives several lives, each with the real runtime and the real loop."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from engine.context import Shared
from engine.kafka.recovery import Recovery
from engine.kafka.runtime import KafkaRuntime
from engine.loop import TaskLoop, plans
from engine.secrets import Secrets
from engine.simulation.clients import FakeClients
from engine.simulation.process import Process
from engine.simulation.virtual import Folder, VirtualTime

if TYPE_CHECKING:
    from engine.simulation.world import World

RECORDS_MAX = (1, 3, 20)  # per task and turn: small turns make many commits


class Worker:
    """See the module. `process` is None before the first life; `retired` workers are not started again."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.process: Process | None = None
        self.life = 0
        self.start_ms = 0
        self.retired = False
        self.runtime: Any = None
        self.loop: Any = None

    @property
    def alive(self) -> bool:
        """Whether its process runs or stands still, as opposed to being dead."""
        return self.process is not None and self.process.alive

    def start(self) -> None:
        """Begin a life. Raises what the engine raises when it cannot start."""
        world = self.world
        self.life += 1
        self.process = Process(self.name, self.life, world.strike)
        world.tell(self.name, f"starts, life {self.life}")
        clients = world.bug.clients(FakeClients)(world.cluster, self.process, world.names)
        folder: Any = Folder(f"/{self.name}")
        fakes: Any = clients
        recovery = Recovery(
            fakes, world.names, world.tasks, folder, self.name, world.clock, pause=VirtualTime(world.cluster).sleep
        )  # fmt: skip
        self.runtime = KafkaRuntime(
            fakes, world.names, world.topology.topic_specs(), world.tasks, folder=folder, worker=self.name, clock=world.clock,
            tables=("controllers",), recovery=recovery, threaded=False,
        )  # fmt: skip
        process, name = self.process, self.name

        def step(number: int) -> None:
            world.tell(name, f"commit step {number}")
            world.strike(process, f"step {number}", "before")
            process.check()

        self.runtime.transactor.step = step
        shared = Shared(Secrets(world.ring, world.octets), world.topology)
        records_max = world.random.choice(RECORDS_MAX)
        self.loop = TaskLoop(
            self.runtime, plans(world.topology, world.job.processors), shared, world.clock, records_max,
            alarm_work_min=max(1, records_max // 10),  # so little that alarms are left to the next turn, as under load
        )  # fmt: skip

    def work(self, random: Random) -> None:
        """Do one thing: a turn of the loop, or a step of the recovery's thread."""
        if random.random() < 0.4:
            self.runtime.recovery.step()
        else:
            self.loop.turn()

    def work_both(self) -> None:
        """Do one thing of each."""
        self.runtime.recovery.step()
        self.loop.turn()

    def leave(self) -> None:
        """Stop as after SIGTERM."""
        self.world.tell(self.name, "leaves")
        self.runtime.close()
        self.end("left")

    def end(self, why: str) -> None:
        """The process is gone: its memory with it, and of its disk what was not flushed."""
        if self.process is not None and self.process.alive:
            self.world.tell(self.name, f"is gone: {why}")
            self.process.alive = False
            self.world.disks.crash(self.name)
