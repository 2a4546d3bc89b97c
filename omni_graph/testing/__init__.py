"""The public conformance kit: run a node by itself, and hold nodes, streams and links to the protocol's rules.

No pytest in here; a broken rule raises AssertionError with the rule's name. Users may run it on their own classes.
"""

from omni_graph.testing.link import LINK_TYPES as LINK_TYPES
from omni_graph.testing.link import LinkReport as LinkReport
from omni_graph.testing.link import check_link as check_link
from omni_graph.testing.run import NodeRun as NodeRun
from omni_graph.testing.run import run_node as run_node
