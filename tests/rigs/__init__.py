"""The parts that tests are built from: directories and servers, and workers of a fleet in memory.

directories, clusters    directories in memory, and a PostgreSQL cluster to copy
clock, bus, slots        a fleet's surroundings: a clock that tests advance, a message bus, slot tables
requests, worker         one worker in memory with its ASGI application, on a real PostgreSQL
persister, client_api, synchrotron    the worker types; `synchrotron.fleet` puts them together
waiting, loop_pauses     waiting for what tells nobody, and measuring the loop's longest steps
"""
