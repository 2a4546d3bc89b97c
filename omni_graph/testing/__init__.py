"""The public conformance kit: run a node by itself, and hold nodes, streams and links to the protocol's rules.

No pytest in here; a broken rule raises AssertionError with the rule's name. Users may run it on their own classes.
"""
