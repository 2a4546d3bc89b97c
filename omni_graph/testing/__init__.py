"""The public conformance kit: run a node by itself, and hold nodes, streams and links to the protocol's rules.

No pytest in here; a broken rule raises AssertionError with the rule's name. Users may run it on their own classes.
"""

from omni_graph.testing.audit import RuleBroken as RuleBroken
from omni_graph.testing.link import LINK_TYPES as LINK_TYPES
from omni_graph.testing.link import LinkReport as LinkReport
from omni_graph.testing.link import check_link as check_link
from omni_graph.testing.node import RULES as RULES
from omni_graph.testing.node import check_node as check_node
from omni_graph.testing.run import NodeRun as NodeRun
from omni_graph.testing.run import run_node as run_node
from omni_graph.testing.stream import check_stream as check_stream
