"""The scenes: a scene is one run of the load generator with a new daemon, and gives several figures."""

from __future__ import annotations

import json
import select
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.daemons import NotMeasuredError, processors, started

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.daemons import Running, Server

LONGEST_SCENE_S = 120.0

Figures = dict[str, float]


@dataclass(frozen=True)
class Scene:
    """One run of the load generator.

    `arguments` are options of the load generator. `guests` is how many guests hold a lock each before the
    measured calls begin. `floor` says whether the C floor server supports the scene. It is played `plays`
    times in a round.
    """

    name: str
    arguments: tuple[str, ...] = ()
    guests: int = 0
    floor: bool = False
    upgrade: bool = False
    lockspace: bool = False
    plays: int = 1


BOTH = ("--clients", "1,16")
GUESTS_OF_PICTURE = (0, 100, 300, 900, 2000, 4000)
HELD_LOCKS = (100, 1000, 10000)
LOCKSPACES = (1000,)

# If the speed of a machine changes within seconds, the median of a few ratios varies much. Therefore scenes
# that are quick and have a required ratio are played more often.
QUICK = 3

SCENES = (
    *(
        Scene(
            f"{guests} guests",
            BOTH,
            guests=guests,
            floor=guests in {0, 900, 4000},
            plays=1 if guests else QUICK,
        )
        for guests in GUESTS_OF_PICTURE
    ),
    Scene("in flight", ("--in-flight", "16"), floor=True, plays=QUICK),
    Scene("indirect", BOTH, lockspace=True, plays=QUICK),
    Scene("busy", ("--clients", "16", "--contended"), plays=QUICK),
    Scene("shared", ("--clients", "16", "--shared")),
    *(Scene(f"{count} locks held", ("--held", str(count), *BOTH)) for count in HELD_LOCKS),
    *(Scene(f"{count} lockspaces", ("--lockspaces", str(count), *BOTH)) for count in LOCKSPACES),
    Scene("upgrade", ("--clients", "64"), guests=900, upgrade=True),
)


def play(scene: Scene, server: Server, load: Path, scratch: Path, seconds: float) -> Figures:
    """Measure one scene with a newly started `server`.

    `load` is the program of the load generator, `scratch` an empty directory for the locked files, `seconds`
    the duration of a run. Returns the figures by name: names for a run with 16 clients begin with 16, as in
    `16 calls/s`. Raises NotMeasuredError.
    """
    files = scratch / "files"
    files.mkdir()
    with started(server, scratch) as running:
        command = [str(load), "--socket", str(running.socket), "--files", str(files), *scene.arguments]
        command += ["--guests", str(scene.guests), "--seconds", str(2.0 if scene.upgrade else seconds)]
        if scene.lockspace:
            command += ["--lockspace", str(scratch / "lockspace")]
        command += ["--daemon", str(running.process.pid)]
        if scene.upgrade:
            command += ["--upgrade"]
        with processors(generator=True):
            generator = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        with generator:
            try:
                return _figures(scene, running, _result(scene, generator))
            finally:
                # The daemon ends first. Otherwise it would fence the guests whose connections end.
                running.stop()
                generator.communicate()


def _result(scene: Scene, generator: subprocess.Popen[str]) -> dict[str, Any]:
    assert generator.stdout is not None
    assert generator.stderr is not None
    if not select.select([generator.stdout], [], [], LONGEST_SCENE_S)[0]:
        generator.kill()
        raise NotMeasuredError(f"{scene.name}: not done after {LONGEST_SCENE_S:.0f} s")
    line = generator.stdout.readline()
    if not line:
        raise NotMeasuredError(f"{scene.name}: {generator.stderr.readline().strip()}")
    result: dict[str, Any] = json.loads(line)
    return result


def _figures(scene: Scene, running: Running, result: dict[str, Any]) -> Figures:
    figures = {"first reply, ms": running.first_reply_ms}
    if scene.guests:
        if running.held_locks < scene.guests:
            raise NotMeasuredError(f"{scene.name}: afterwards only {running.held_locks} locks are held")
        figures["guests/s"] = scene.guests / result["start"]["seconds"]
        figures["resident, MB"] = running.resident_mb
    for run in result["runs"]:
        if scene.upgrade:
            return figures | {"pause, ms": run["pause_ms"], "lost calls": run["lost_calls"]}
        clients = run["clients"]
        figures[f"{clients} calls/s"] = run["calls_per_second"]
        figures[f"{clients} generator busy"] = run["generator_busy"]
        figures[f"{clients} processor µs"] = run["daemon_us_per_call"]
        figures |= {f"{clients} {name} µs": value for name, value in run["latency_us"].items()}
    return figures
