"""A backup commanded through QEMU's own Python package: nodes, a bitmap, a grouped transaction, events."""

import asyncio
import sys

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError


async def main(path):
    client = QMPClient("test")
    await client.connect(path)
    print("greeting", client.greeting.QMP.version["qemu"]["major"])
    for number in (0, 1):
        for name in (f"d{number}", f"t{number}"):
            arguments = {"driver": "null-co", "node-name": name, "size": 1 << 20}
            await client.execute("blockdev-add", arguments)
        await client.execute("block-dirty-bitmap-add", {"node": f"d{number}", "name": "b"})
    backup = lambda n: {
        "type": "blockdev-backup",
        "data": {"job-id": f"j{n}", "device": f"d{n}", "target": f"t{n}", "sync": "full", "auto-dismiss": False},
    }
    statuses = []
    with client.listener("JOB_STATUS_CHANGE") as listener:
        actions = [backup(0), backup(1)]
        await client.execute("transaction", {"actions": actions, "properties": {"completion-mode": "grouped"}})
        concluded = 0
        async for event in listener:
            if event["data"]["id"] == "j0":
                statuses.append(event["data"]["status"])
            concluded += event["data"]["status"] == "concluded"
            if concluded == 2:
                break
    print("j0", *statuses)
    for job in await client.execute("query-jobs"):
        print(job["id"], job["status"], job["current-progress"])
        await client.execute("job-dismiss", {"id": job["id"]})
    try:
        await client.execute("job-pause", {"id": "j0"})
    except QMPError as error:
        print("refused", error)
    await client.disconnect()


asyncio.run(main(sys.argv[1]))
