# usage: client_asyncio.py HOST PORT
import asyncio
import sys


async def main():
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    sys.stdout.write((await reader.read()).decode())
    writer.close()
    await writer.wait_closed()


asyncio.run(main())
