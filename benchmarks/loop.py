"""The loop that users write instead of difyexec: run -i data.csv -o results.jsonl --base-url URL --mode MODE -c N"""
import asyncio, csv, json, sys
import aiohttp

option = dict(zip(sys.argv[2::2], sys.argv[3::2]))
clients, streaming = int(option["-c"]), option["--mode"] == "streaming"

async def send(http, row):
    body = {"inputs": row, "response_mode": option["--mode"], "user": "loop"}
    async with http.post(option["--base-url"] + "/workflows/run", json=body) as response:
        if not streaming:
            return (await response.json())["data"]
        async for line in response.content:
            if line.startswith(b"data: ") and (event := json.loads(line[6:]))["event"] == "workflow_finished":
                return event["data"]

async def worker(http, rows, results):
    for row in rows:
        run = await send(http, row)
        results.write(json.dumps({"id": row["id"], "outputs": run["outputs"], "error": run["error"]}) + "\n")

async def main():
    pool = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=pool, headers={"Authorization": "Bearer app-pace"}) as http:
        with open(option["-i"], newline="") as data, open(option["-o"], "w") as results:
            rows = csv.DictReader(data)
            await asyncio.gather(*(worker(http, rows, results) for _ in range(clients)))

asyncio.run(main())
