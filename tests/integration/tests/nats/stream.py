"""Makes the stream, or prints all that is in it, a line each: stream.py URL CA USER PASSWORD-FILE make|read"""

import asyncio
import json
import ssl
import sys

import nats

STREAM = "events"


async def main(url, ca, user, password_file, action):
    with open(password_file) as file:
        password = file.read().strip()
    tls = ssl.create_default_context(cafile=ca)
    client = await nats.connect(
        url, tls=tls, user=user, password=password, allow_reconnect=False, connect_timeout=30
    )
    stream = client.jetstream()
    if action == "make":
        # An hour: on a slow machine, what is sent again comes late.
        await stream.add_stream(name=STREAM, subjects=["enforcer.>"], duplicate_window=3600)
    else:
        state = (await stream.stream_info(STREAM)).state
        for number in range(state.first_seq, state.last_seq + 1):
            message = await stream.get_msg(STREAM, number)
            uid = message.headers["Nats-Msg-Id"]
            print(json.dumps({"subject": message.subject, "uid": uid, "text": message.data.decode()}))
    await client.close()


asyncio.run(main(*sys.argv[1:]))
