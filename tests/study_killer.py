"""Runs studies and kills them with SIGKILL at random moments: `python study_killer.py FOLDER KILLS SEED`.

A kill counts if it hits a study that is not finished; a finished one is followed by the next, in a folder of its own.
After each kill everything that was reported as finished must be finished and right. In the end all studies are
completed. Prints how many kills counted, how many cells were finished at these moments (least and most), and hashes.
"""

import os
import pathlib
import random
import signal
import sys
import time

from flatmin.studies import find_store, run_study, study_spec
from flatmin.studies._segments import DONE
from flatmin.studies.store import content_hash

SPEC = {
    "name": "kills",
    "seeds": 50,
    "function": {"call": "study_cells:tiny"},
    "axes": {"function.x": {"from": 0, "to": 9, "count": 10}},
}


def child(folder, pipe, batch_size):
    def report(progress):
        os.write(pipe, progress.done.to_bytes(4, "little"))

    try:
        run_study(study_spec(SPEC), folder, batch_size=batch_size, progress=report)
    finally:
        os._exit(0)


def main(home, kills, seed):
    rng = random.Random(seed)
    moments, study = [], 0
    while len(moments) < kills:
        folder = home / str(study)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            child(folder, writing, rng.choice([1, 1, 2, 7]))
        os.close(writing)
        # while the folder is opened, or between any two of some dozens of segments, and anywhere in between
        segments, reported = rng.choice([0, rng.randint(1, 60)]), b""
        while len(reported) < 4 * segments and (part := os.read(reading, 4 * segments - len(reported))):
            reported += part
        time.sleep(rng.uniform(0, 0.004 if segments else 0.04))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while part := os.read(reading, 65536):
            reported += part
        os.close(reading)
        if not (folder / "study.json").is_file():
            moments.append(0)
            continue
        store = find_store(folder)
        content = store.read()
        assert not content.damaged, content.damaged
        if len(reported) >= 4:
            last = int.from_bytes(reported[len(reported) // 4 * 4 - 4 :][:4], "little")
            assert content.count(DONE) >= last, (content.count(DONE), last)
        for cell in range(store.study.grid.size):
            if content.states[cell] == DONE:
                values = store.study.values(cell)
                assert content.values["value"][cell] == 2 * values["function.x"] + values["seed"]
        if content.count(DONE) < store.study.grid.size:
            moments.append(content.count(DONE))
        else:
            study += 1
    hashes = set()
    for folder in sorted(home.iterdir()):
        run_study(study_spec(SPEC), folder)
        store = find_store(folder)
        hashes.add(content_hash(store.study, store.read()))
    print(len(moments), min(moments), max(moments), *hashes)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
