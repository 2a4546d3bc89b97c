"""Links: how frames travel between replicas. The only code that knows bytes and sockets.

``memory`` (threads of one process) and ``sockets`` (ZMQ over ipc or tcp) keep one contract, ``omni_graph.frames.Links``;
``omni_graph.testing.check_link`` holds both to it. Import the one you need: this module imports neither.
"""
