"""The processes of a server: one supervisor, and worker processes that share one listening socket.

Only `service.cli` imports this folder, and in it only `worker` imports the application. The traps that it closes:

- a worker dies (a shard file cut off under a memory map is SIGBUS): the supervisor starts another one
- the supervisor dies: its workers end at once, so the port is free again
- clients are refused while a worker starts: they wait in the backlog of the socket, which is open all the time
- a client stops reading: the kernel closes its connection, so it cannot hold a batch in memory forever
"""
